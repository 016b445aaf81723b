/* What the checkpoint promises: the aggregator may be killed at any instant and everything counts exactly
 * once. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "aggregator/checkpoint.h"
#include "aggregator/destination/destination.h"
#include "aggregator/guard.h"
#include "aggregator/log.h"
#include "aggregator/pool.h"
#include "aggregator/store.h"
#include "tests/unit/suite.h"
#include "tests/unit/synthetic.h"

#define MS UINT64_C(1000000)

static struct synthetic s;
static struct pool *pool;
static struct config config;
static uint32_t leaf;
static uint64_t now;

static void open_pool(void)
{
    ck_assert_int_eq(pool_open(&pool, s.directory, s.name, &config), 0);
}

/* Die without a word: only what stands in files is left. */
static void killed(void)
{
    pool_close(pool);
    open_pool();
}

static void set_up(void)
{
    synthetic_directory(&s);
    synthetic_attach(&s);
    synthetic_type(&s, 0, "(other)");
    synthetic_type(&s, 1, "/a");
    leaf = synthetic_node(&s, 0, "f.py", "f", 1);
    now = clock_monotonic_ns();
    open_pool();
}

static void tear_down(void)
{
    pool_close(pool);
    synthetic_end(&s);
}

/* Everything that windows hold together. */
struct sum {
    uint64_t count, errors, ended, samples, in_histogram, admitted, dropped;
    double wall;
};

static void add(struct sum *sum, const struct window *window)
{
    for (uint32_t i = 0; i < window->profile.types; i++) {
        const struct type_totals *t = &window->profile.type[i];
        sum->count += t->count;
        sum->errors += t->errors;
        sum->ended += t->ended;
        sum->in_histogram += histogram_total(&t->histogram);
    }
    for (uint32_t i = 0; i < window->profile.cells; i++)
        for (int state = 0; state < SAMPLE_STATES; state++)
            sum->wall += window->profile.cell[i].wall[state];
    sum->samples += window->sums.samples;
    sum->admitted += window->sums.admitted;
    sum->dropped += window->sums.dropped;
}

static struct sum sum_up(void)
{
    struct sum sum = {0};
    for (uint32_t i = 0; i < pool->windows.count; i++)
        add(&sum, pool->windows.closed[i]);
    add(&sum, pool->merge.open);
    return sum;
}

static void one_action(bool error)
{
    uint64_t serial = synthetic_begin(&s, 1, 0, 1);
    ck_assert(synthetic_sample(&s, serial, leaf, STATE_CPU, 10 * MS));
    synthetic_finish(&s, serial, 1, 10 * MS, error);
}

static void close_window_now(void)
{
    now += 2 * POOL_WINDOW_NS;
    pool_account(pool, 0, now);
    pool_cycle(pool, now);
}

START_TEST(a_restart_after_a_checkpoint_goes_on_where_it_was)
{
    for (int i = 0; i < 10; i++)
        one_action(i == 0);
    pool_round(pool);
    pool_round(pool);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    killed();
    struct sum sum = sum_up();
    ck_assert_uint_eq(sum.count, 10);
    ck_assert_uint_eq(sum.errors, 1);
    ck_assert_uint_eq(sum.ended, 10);
    ck_assert_uint_eq(sum.samples, 10);
    ck_assert_uint_eq(sum.in_histogram, 10);
    ck_assert_uint_eq(sum.admitted, 10);
    ck_assert_double_eq_tol(sum.wall, 100.0 * MS, 1);
    pool_round(pool);
    pool_round(pool);
    sum = sum_up();
    ck_assert_uint_eq(sum.count, 10);
    ck_assert_uint_eq(sum.samples, 10);
}
END_TEST

START_TEST(what_was_drained_but_not_committed_is_drained_again)
{
    for (int i = 0; i < 10; i++)
        one_action(false);
    pool_round(pool);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    for (int i = 0; i < 7; i++)
        one_action(false);
    pool_round(pool);
    pool_round(pool);
    killed();
    pool_round(pool);
    pool_round(pool);
    struct sum sum = sum_up();
    ck_assert_uint_eq(sum.count, 17);
    ck_assert_uint_eq(sum.ended, 17);
    ck_assert_uint_eq(sum.samples, 17);
}
END_TEST

START_TEST(heads_that_were_not_stored_after_the_commit_do_no_harm)
{
    for (int i = 0; i < 10; i++)
        one_action(false);
    pool_round(pool);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    struct aggregator_page *page = (void *)(s.segment.base + 2 * SEGMENT_PAGE);
    ck_assert_uint_gt(atomic_load(&page->lanes[LANE_SAMPLER].head), 0);
    atomic_store(&page->lanes[LANE_SAMPLER].head, 0);
    atomic_store(&page->lanes[LANE_ACTION].head, 0);
    killed();
    pool_round(pool);
    pool_round(pool);
    ck_assert_uint_eq(sum_up().samples, 10);
    ck_assert_uint_eq(sum_up().ended, 10);
}
END_TEST

START_TEST(an_open_action_keeps_its_samples_over_a_restart)
{
    uint64_t root = synthetic_begin(&s, 1, 0, 0.5), nested = synthetic_begin(&s, 1, root, 0.5);
    for (int i = 0; i < 5; i++)
        ck_assert(synthetic_sample(&s, nested, leaf, STATE_CPU, 10 * MS));
    pool_round(pool);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    killed();
    ck_assert_uint_eq(pool->merge.actions.samples_used, 5);
    synthetic_finish(&s, nested, 1, 50 * MS, false);
    ck_assert(synthetic_sample(&s, root, leaf, STATE_CPU, 10 * MS));
    synthetic_finish(&s, root, 1, 60 * MS, false);
    pool_round(pool);
    pool_round(pool);
    struct sum sum = sum_up();
    ck_assert_uint_eq(sum.ended, 2);
    ck_assert_double_eq_tol(sum.wall, 2.0 * (5 + 6) * 10 * MS, 10);
    ck_assert_uint_eq(pool->merge.actions.actions_used, 0);
}
END_TEST

START_TEST(closed_windows_survive_and_their_files_do_not_pile_up)
{
    for (int i = 0; i < 100; i++) {
        one_action(false);
        pool_round(pool);
        pool_round(pool);
        close_window_now();
        ck_assert_int_eq(checkpoint_write(pool), 0);
        if (i % 10 == 0)
            killed();
    }
    ck_assert_uint_eq(sum_up().count, 100);
    ck_assert_uint_eq(sum_up().samples, 100);
    unsigned files = 0;
    DIR *directory = opendir(s.pool);
    for (struct dirent *e; (e = readdir(directory)) != NULL;)
        files += strncmp(e->d_name, "window-", 7) == 0;
    closedir(directory);
    ck_assert_uint_le(files, WINDOWS_MOST);
}
END_TEST

START_TEST(each_windows_longest_latency_is_its_own)
{
    synthetic_count(&s, 1, 100 * MS);
    pool_round(pool);
    close_window_now();
    ck_assert_uint_eq(pool->windows.closed[0]->profile.type[0].latency_max_ns, 100 * MS);
    synthetic_count(&s, 1, 10 * MS); /* the worker still says 100 ms; the bucket tells */
    pool_round(pool);
    uint64_t longest = pool->merge.open->profile.type[0].latency_max_ns;
    ck_assert_uint_ge(longest, 10 * MS);
    ck_assert_uint_lt(longest, 11 * MS);
}
END_TEST

START_TEST(a_finished_worker_is_removed_only_after_its_end_is_committed)
{
    for (int i = 0; i < 10; i++)
        one_action(false);
    synthetic_close_segment(&s);
    for (int i = 0; i < 5; i++)
        pool_round(pool);
    ck_assert_uint_eq(synthetic_rings(&s), 1);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    ck_assert_uint_eq(synthetic_rings(&s), 0);
    ck_assert_ptr_null(pool->workers);
    killed();
    ck_assert_uint_eq(sum_up().count, 10);
    ck_assert_uint_eq(sum_up().ended, 10);
}
END_TEST

START_TEST(a_finished_worker_whose_file_was_not_removed_counts_no_second_time)
{
    char rings[DIRECTORY_PATH_MAX], kept[DIRECTORY_PATH_MAX];
    for (int i = 0; i < 10; i++)
        one_action(false);
    synthetic_close_segment(&s);
    for (int i = 0; i < 5; i++)
        pool_round(pool);
    ck_assert_int_eq(directory_join(rings, s.pool, "rings"), 0);
    snprintf(kept, sizeof kept, "%s.kept", s.pool);
    char original[DIRECTORY_PATH_MAX];
    snprintf(original, sizeof original, "%s", pool->workers->path);
    ck_assert_int_eq(link(original, kept), 0);
    ck_assert_int_eq(checkpoint_write(pool), 0); /* commits, then removes */
    ck_assert_int_eq(rename(kept, original), 0); /* as if it had been killed in between */
    killed();
    for (int i = 0; i < 5; i++)
        pool_round(pool);
    ck_assert_uint_eq(sum_up().count, 10);
    ck_assert_uint_eq(sum_up().samples, 10);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    ck_assert_uint_eq(synthetic_rings(&s), 0);
}
END_TEST

START_TEST(a_damaged_checkpoint_is_refused_whole)
{
    char path[DIRECTORY_PATH_MAX];
    for (int i = 0; i < 10; i++)
        one_action(false);
    pool_round(pool);
    pool_round(pool);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    pool_close(pool);
    ck_assert_int_eq(directory_join(path, s.pool, "checkpoint"), 0);
    int fd = open(path, O_RDWR);
    off_t size = lseek(fd, 0, SEEK_END);
    if (_i == 0) {
        ck_assert_int_eq(ftruncate(fd, size / 2), 0);
    } else {
        char byte;
        off_t at = _i == 1 ? size / 2 : 3;
        ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
        byte ^= 1;
        ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
    }
    close(fd);
    open_pool();
    pool_round(pool);
    pool_round(pool);
    /* Counters are absolute, so they are right all the same; records behind the head are gone. */
    ck_assert_uint_eq(sum_up().count, 10);
    ck_assert_uint_eq(sum_up().samples, 0);
    one_action(false);
    pool_round(pool);
    ck_assert_uint_eq(sum_up().count, 11);
    ck_assert_uint_eq(sum_up().samples, 1);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    killed();
    ck_assert_uint_eq(sum_up().count, 11);
}
END_TEST

START_TEST(names_left_behind_by_a_crash_are_cut)
{
    char path[DIRECTORY_PATH_MAX];
    one_action(false);
    pool_round(pool);
    pool_round(pool);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    ck_assert_int_eq(directory_join(path, s.pool, "names"), 0);
    int fd = open(path, O_WRONLY | O_APPEND);
    ck_assert_int_eq(write(fd, "half a piece", 12), 12);
    close(fd);
    killed();
    synthetic_node(&s, leaf, "g.py", "g", 2);
    one_action(false);
    pool_round(pool);
    pool_round(pool);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    killed();
    ck_assert_uint_eq(sum_up().count, 2);
    ck_assert_uint_eq(stacks_count(&pool->merge.stacks), 3);
    ck_assert_str_eq(names_text(&pool->merge.instructions, stacks_node(&pool->merge.stacks, 2).instruction),
                     "g.py:g:2");
}
END_TEST

START_TEST(the_pages_of_a_live_pool_are_never_replaced)
{
    char path[DIRECTORY_PATH_MAX];
    struct stat before, after;
    ck_assert_int_eq(directory_join(path, s.pool, "rates"), 0);
    ck_assert_int_eq(stat(path, &before), 0);
    struct rates rates = {0};
    rates_read(pool->pages.rates, &rates);
    ck_assert_msg(rates.cycle_ns == 0, "before anybody has asked nobody is to go by the defaults");
    pool_cycle(pool, clock_monotonic_ns());
    atomic_store(&pool->pages.budget->peak, 7);
    killed();
    ck_assert_int_eq(stat(path, &after), 0);
    ck_assert_uint_eq(before.st_ino, after.st_ino);
    ck_assert_uint_eq(atomic_load(&pool->pages.budget->peak), 7);
    ck_assert(rates_read(pool->pages.rates, &rates));
    ck_assert_uint_eq(rates.cap, 10);
    ck_assert_uint_eq(rates.interval_ns, 10 * MS);
}
END_TEST

START_TEST(a_bad_segment_is_quarantined_and_the_others_go_on)
{
    struct synthetic bad = s;
    synthetic_attach(&bad);
    atomic_store(&bad.segment.worker->lanes[LANE_ACTION].tail, UINT64_C(1) << 50);
    pool_scan(pool, true);
    one_action(false);
    pool_round(pool);
    pool_round(pool);
    ck_assert_uint_eq(pool->quarantined, 1);
    ck_assert_uint_eq(sum_up().count, 1);
    ck_assert_uint_eq(synthetic_rings(&s), 2); /* its process lives */
    segment_unmap(&bad.segment);
}
END_TEST

START_TEST(the_crc_is_the_standard_one)
{
    ck_assert_uint_eq(store_crc(0, "123456789", 9), 0xCBF43926);
    ck_assert_uint_eq(store_crc(0, "", 0), 0);
}
END_TEST

/* ---- what others may do to the files ----------------------------------------------------------------- */

START_TEST(a_quarantined_worker_counts_nothing_twice_after_a_restart)
{
    one_action(false);
    synthetic_count(&s, 1, 5 * MS);
    pool_round(pool);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    one_action(false);
    pool_round(pool); /* merged, but its heads are not stored when it breaks the rules */
    _Atomic uint64_t *tail = &s.segment.worker->lanes[LANE_SAMPLER].tail;
    uint64_t right = atomic_exchange(tail, 8);
    pool_round(pool);
    atomic_store(tail, right); /* too late: what was refused once stays refused */
    ck_assert_uint_eq(pool->quarantined, 1);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    struct sum before = sum_up();
    killed();
    one_action(false); /* and what it says from now on, is not listened to */
    pool_round(pool);
    pool_round(pool);
    struct sum after = sum_up();
    ck_assert_uint_eq(pool->quarantined, 1);
    ck_assert_uint_eq(after.count, before.count);
    ck_assert_uint_eq(after.samples, before.samples);
}
END_TEST

START_TEST(cpu_that_was_accounted_for_is_not_again_after_a_restart)
{
    one_action(false);
    atomic_store(&s.segment.worker->sampler_cpu_ns, NS_PER_SECOND); /* ours, to be taken off once */
    pool_round(pool);
    uint64_t earliest_ns = clock_read_ns(CLOCK_PROCESS_CPUTIME_ID);
    pool_account(pool, 0, clock_monotonic_ns());
    uint64_t latest_ns = clock_read_ns(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t accounted_ns = pool->merge.open->sums.worker_cpu_ns;
    ck_assert_int_eq(checkpoint_write(pool), 0);
    killed();
    uint64_t least_ns = clock_read_ns(CLOCK_PROCESS_CPUTIME_ID) - latest_ns;
    pool_account(pool, 0, clock_monotonic_ns());
    uint64_t most_ns = clock_read_ns(CLOCK_PROCESS_CPUTIME_ID) - earliest_ns;
    uint64_t more_ns = pool->merge.open->sums.worker_cpu_ns - accounted_ns;
    ck_assert_uint_ge(more_ns, least_ns);
    ck_assert_uint_le(more_ns, most_ns);
}
END_TEST

START_TEST(a_segment_that_cannot_be_opened_for_want_of_descriptors_is_not_taken_for_gone)
{
    for (int i = 0; i < 10; i++)
        one_action(false);
    pool_round(pool);
    pool_round(pool);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    pool_close(pool);
    struct rlimit before, few;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    int next = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(next);
    few = before;
    few.rlim_cur = (rlim_t)next + 1; /* the folder can be read, but no file in it opened meanwhile */
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
    open_pool();
    pool_scan(pool, true);
    ck_assert_ptr_null(pool->workers);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    pool_scan(pool, true);
    ck_assert_ptr_nonnull(pool->workers);
    one_action(false);
    pool_round(pool);
    ck_assert_uint_eq(sum_up().count, 11);
}
END_TEST

START_TEST(a_copy_of_a_segment_is_not_counted)
{
    char rings[DIRECTORY_PATH_MAX], command[4 * DIRECTORY_PATH_MAX];
    one_action(false);
    pool_round(pool);
    ck_assert_int_eq(directory_join(rings, s.pool, "rings"), 0);
    snprintf(command, sizeof command, "cp %s/*.ring %s/00112233445566778899aabbccddeeff.ring", rings, rings);
    ck_assert_int_eq(system(command), 0);
    pool_scan(pool, true);
    pool_round(pool);
    pool_round(pool);
    ck_assert_uint_eq(sum_up().count, 1);
    ck_assert_uint_eq(pool->refused_count, 1);
}
END_TEST

/* ThreadSanitizer does not survive a second jump out of its own loads in a process. */
#ifdef __SANITIZE_THREAD__
enum { PAGES_CUT = 1 };
#else
enum { PAGES_CUT = 2 };
#endif

START_TEST(shared_pages_that_were_cut_are_restored)
{
    static const char *const names[] = {"budget", "rates"};
    char path[DIRECTORY_PATH_MAX];
    ck_assert_int_eq(directory_join(path, s.pool, names[_i]), 0);
    ck_assert_int_eq(truncate(path, 0), 0);
    now += NS_PER_SECOND;
    pool_heartbeat(pool, now);
    pool_cycle(pool, now);
    pool_cycle(pool, now);
    pool_heartbeat(pool, now);
    struct rates rates;
    ck_assert(pages_published(&pool->pages, &rates));
    ck_assert_uint_eq(rates.interval_ns, pool->limits.interval_ns);
    ck_assert_uint_eq(pool->pages.budget->magic, BUDGET_MAGIC);
    ck_assert_uint_eq(pool->pages.rates->magic, RATES_MAGIC);
}
END_TEST

START_TEST(a_pool_whose_folder_is_removed_and_made_again_goes_on)
{
    one_action(false);
    pool_round(pool);
    pool_round(pool);
    close_window_now();
    ck_assert_int_eq(checkpoint_write(pool), 0);
    synthetic_remove_tree(s.pool);
    pool_scan(pool, true);
    ck_assert_int_ne(checkpoint_write(pool), 0);
    ck_assert_int_eq(directory_make_pool(s.directory, s.pool), 0);
    segment_unmap(&s.segment);
    synthetic_attach(&s);
    synthetic_type(&s, 0, "(other)");
    synthetic_type(&s, 1, "/a");
    leaf = synthetic_node(&s, 0, "f.py", "f", 1);
    pool_scan(pool, true);
    char path[DIRECTORY_PATH_MAX];
    ck_assert_int_eq(directory_join(path, s.pool, "rates"), 0);
    ck_assert_int_eq(access(path, R_OK), 0);
    one_action(false);
    pool_round(pool);
    pool_round(pool);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    ck_assert_uint_eq(sum_up().count, 2);
    killed();
    ck_assert_uint_eq(sum_up().count, 2);
}
END_TEST

START_TEST(a_checkpoint_that_another_uid_or_no_file_put_there_is_not_read)
{
    char path[DIRECTORY_PATH_MAX], *data;
    size_t bytes;
    ck_assert_int_eq(directory_join(path, s.pool, "fifo"), 0);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    ck_assert_int_eq(store_read(path, &data, &bytes), -EBADMSG); /* and does not wait for a writer */
    ck_assert_int_eq(unlink(path), 0);
    if (geteuid() != 0)
        return;
    ck_assert_int_eq(store_write(path, "x", 1), 0);
    ck_assert_int_eq(chown(path, 12345, 12345), 0);
    ck_assert_int_eq(store_read(path, &data, &bytes), -EBADMSG);
}
END_TEST

START_TEST(window_files_left_by_a_crash_are_swept)
{
    char path[DIRECTORY_PATH_MAX];
    one_action(false);
    pool_round(pool);
    pool_round(pool);
    close_window_now();
    ck_assert_int_eq(checkpoint_write(pool), 0);
    ck_assert_int_eq(directory_join(path, s.pool, "window-77"), 0);
    ck_assert_int_eq(store_write(path, "x", 1), 0);
    killed();
    ck_assert_int_ne(access(path, F_OK), 0);
    ck_assert_uint_eq(pool->windows.count, 1);
    ck_assert_int_eq(directory_join(path, s.pool, "window-1"), 0);
    ck_assert_int_eq(access(path, F_OK), 0);
}
END_TEST

/* ---- requests of workers that are gone --------------------------------------------------------------- */

int main(void)
{
    guard_install();
    destinations_start();
    log_open("/dev/null");
    Suite *suite = suite_create("checkpoint");
    TCase *cases = tcase_create("promises");
    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_test(cases, a_restart_after_a_checkpoint_goes_on_where_it_was);
    tcase_add_test(cases, what_was_drained_but_not_committed_is_drained_again);
    tcase_add_test(cases, heads_that_were_not_stored_after_the_commit_do_no_harm);
    tcase_add_test(cases, an_open_action_keeps_its_samples_over_a_restart);
    tcase_add_test(cases, closed_windows_survive_and_their_files_do_not_pile_up);
    tcase_add_test(cases, each_windows_longest_latency_is_its_own);
    tcase_add_test(cases, a_finished_worker_is_removed_only_after_its_end_is_committed);
    tcase_add_test(cases, a_finished_worker_whose_file_was_not_removed_counts_no_second_time);
    tcase_add_loop_test(cases, a_damaged_checkpoint_is_refused_whole, 0, 3);
    tcase_add_test(cases, names_left_behind_by_a_crash_are_cut);
    tcase_add_test(cases, the_pages_of_a_live_pool_are_never_replaced);
    tcase_add_test(cases, a_bad_segment_is_quarantined_and_the_others_go_on);
    tcase_add_test(cases, the_crc_is_the_standard_one);
    tcase_add_test(cases, a_quarantined_worker_counts_nothing_twice_after_a_restart);
    tcase_add_test(cases, cpu_that_was_accounted_for_is_not_again_after_a_restart);
    tcase_add_test(cases, a_segment_that_cannot_be_opened_for_want_of_descriptors_is_not_taken_for_gone);
    tcase_add_test(cases, a_copy_of_a_segment_is_not_counted);
    tcase_add_loop_test(cases, shared_pages_that_were_cut_are_restored, 0, PAGES_CUT);
    tcase_add_test(cases, a_pool_whose_folder_is_removed_and_made_again_goes_on);
    tcase_add_test(cases, a_checkpoint_that_another_uid_or_no_file_put_there_is_not_read);
    tcase_add_test(cases, window_files_left_by_a_crash_are_swept);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_NOFORK);
}
