/* What draining a segment promises: everything once, in the right order, and nothing believed unchecked. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "aggregator/guard.h"
#include "aggregator/workers.h"
#include "shm/fault.h"
#include "tests/unit/suite.h"
#include "tests/unit/synthetic.h"

#define MS UINT64_C(1000000)

static struct synthetic s;
static struct merge merge;
static struct worker *worker;

static void open_worker(void)
{
    char rings[DIRECTORY_PATH_MAX], path[DIRECTORY_PATH_MAX];
    ck_assert_int_eq(directory_join(rings, s.pool, "rings"), 0);
    DIR *directory = opendir(rings);
    for (struct dirent *e; (e = readdir(directory)) != NULL;)
        if (strstr(e->d_name, ".ring") != NULL)
            snprintf(path, sizeof path, "%s/%s", rings, e->d_name);
    closedir(directory);
    ck_assert_msg(worker_open(&worker, path, geteuid(), 1) == 0, "%s", fault_text());
    ck_assert_int_eq(worker_begin_at_heads(worker), 0);
}

static void set_up(void)
{
    synthetic_directory(&s);
    synthetic_attach(&s);
    synthetic_type(&s, 0, "(other)");
    synthetic_type(&s, 1, "/checkout");
    ck_assert_int_eq(merge_open(&merge, 0, 0), 0);
    open_worker();
}

static void tear_down(void)
{
    worker_close(worker);
    merge_close(&merge);
    synthetic_end(&s);
}

static int drain(void)
{
    merge.round++;
    int rc = worker_drain(worker, &merge, NULL);
    merge_close_ended(&merge, merge.round);
    return rc;
}

static const struct type_totals *totals(const char *name)
{
    return profile_find_type(&merge.open->profile, names_intern(&merge.types, name, strlen(name)));
}

START_TEST(what_a_worker_recorded_arrives_as_a_profile)
{
    uint32_t root = synthetic_node(&s, 0, "app.py", "main", 3),
             leaf = synthetic_node(&s, root, "shop/db.py", "load_cart", 41);
    uint64_t serial = synthetic_begin(&s, 1, 0, 0.5);
    ck_assert(synthetic_sample(&s, serial, leaf, STATE_BLOCKED, 10 * MS));
    synthetic_finish(&s, serial, 1, 20 * MS, true);
    for (int i = 0; i < 9; i++)
        synthetic_count(&s, 1, 20 * MS);
    ck_assert_int_gt(drain(), 0);
    drain();
    const struct type_totals *t = totals("/checkout");
    ck_assert_uint_eq(t->count, 10);
    ck_assert_uint_eq(t->errors, 1);
    ck_assert_uint_eq(t->profiled, 1);
    ck_assert_uint_eq(t->ended, 1);
    ck_assert_uint_eq(t->latency_sum_ns, 200 * MS);
    ck_assert_uint_eq(t->latency_max_ns, 20 * MS);
    ck_assert_uint_eq(histogram_total(&t->histogram), 10);
    const struct cell *cell = &merge.open->profile.cell[0];
    ck_assert_double_eq_tol(cell->wall[STATE_BLOCKED], 2 * 10.0 * MS, 1);
    struct stack_node node = stacks_node(&merge.stacks, cell->stack);
    ck_assert_str_eq(names_text(&merge.instructions, node.instruction), "shop/db.py:load_cart:41");
    node = stacks_node(&merge.stacks, node.parent);
    ck_assert_str_eq(names_text(&merge.instructions, node.instruction), "app.py:main:3");
    ck_assert_uint_eq(merge.open->sums.admitted, 1);
    ck_assert_uint_eq(merge.open->sums.denied[DENIED_LOTTERY], 9);
}
END_TEST

START_TEST(what_the_sampler_could_not_place_is_counted_apart)
{
    counter_add(&s.segment.worker->unreadable, 2);
    counter_add(&s.segment.worker->unattributed, 3);
    ck_assert_int_ge(drain(), 0);
    ck_assert_int_ge(drain(), 0);
    ck_assert_uint_eq(merge.open->sums.unreadable, 2);
    ck_assert_uint_eq(merge.open->sums.unattributed, 3);
}
END_TEST

START_TEST(counters_are_merged_by_difference_and_a_second_drain_adds_nothing)
{
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 50; i++)
            synthetic_count(&s, 1, (uint64_t)(i + 1) * MS);
        ck_assert_int_gt(drain(), 0);
        ck_assert_int_eq(drain(), 0);
    }
    ck_assert_uint_eq(totals("/checkout")->count, 1000);
    ck_assert_uint_eq(histogram_total(&totals("/checkout")->histogram), 1000);
}
END_TEST

START_TEST(a_worker_of_before_is_counted_but_its_strata_are_not_taken_for_ours)
{
    uint64_t seen[STRATA] = {0};
    synthetic_count(&s, 1, MS);
    counter_add(&s.segment.worker->seen[7], 5);
    worker->header.abi_minor = SEGMENT_ABI_MINOR_STRATA - 1;
    ck_assert_int_ge(worker_drain(worker, &merge, seen), 0);
    ck_assert_uint_eq(seen[7], 0);
    ck_assert_uint_eq(totals("/checkout")->count, 1);
    worker->header.abi_minor = SEGMENT_ABI_MINOR_STRATA;
    counter_add(&s.segment.worker->seen[7], 2);
    ck_assert_int_ge(worker_drain(worker, &merge, seen), 0);
    ck_assert_uint_eq(seen[7], 2);
}
END_TEST

START_TEST(a_spent_pool_of_buckets_is_merged_octave_by_octave)
{
    atomic_store(&s.segment.counters->blocks_used, HISTOGRAM_BLOCKS);
    for (int i = 0; i < 30; i++) {
        synthetic_count(&s, 1, 5 * MS);
        drain();
    }
    const struct type_totals *t = totals("/checkout");
    ck_assert_uint_eq(t->count, 30);
    ck_assert_uint_eq(histogram_total(&t->histogram), 30);
    ck_assert_uint_eq(merge.open->sums.coarse, 30);
    double p50 = histogram_quantile(&t->histogram, 0.5, UINT64_MAX);
    ck_assert(p50 > 2.0 * MS && p50 < 10.0 * MS);
}
END_TEST

START_TEST(a_lane_that_wraps_many_times_loses_nothing_while_it_is_drained)
{
    uint32_t leaf = synthetic_node(&s, 0, "f.py", "f", 1);
    uint64_t serial = synthetic_begin(&s, 1, 0, 1), put = 0;
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < 137; i++)
            put += synthetic_sample(&s, serial, leaf, STATE_CPU, MS);
        ck_assert_int_gt(drain(), 0);
        worker_store_heads(worker);
    }
    ck_assert_uint_eq(put, 200 * 137);
    ck_assert_uint_eq(merge.open->sums.samples, put);
    ck_assert_uint_eq(merge.open->sums.dropped, 0);
}
END_TEST

START_TEST(without_a_checkpoint_the_head_stays_and_a_full_lane_counts_its_losses)
{
    uint32_t leaf = synthetic_node(&s, 0, "f.py", "f", 1);
    uint64_t serial = synthetic_begin(&s, 1, 0, 1), put = 0, lost = 0;
    for (int i = 0; i < 5000; i++) {
        bool there = synthetic_sample(&s, serial, leaf, STATE_CPU, MS);
        put += there;
        lost += !there;
        if (i % 100 == 0)
            drain();
    }
    drain();
    ck_assert_uint_gt(lost, 0);
    ck_assert_uint_eq(merge.open->sums.samples, put);
    ck_assert_uint_eq(merge.open->sums.dropped, lost);
    ck_assert_uint_eq(worker->dropped, lost);
    ck_assert_uint_eq(atomic_load(&s.segment.lanes[LANE_SAMPLER].head->head), 0);
}
END_TEST

/* ---- nothing is believed unchecked ------------------------------------------------------------------- */

static void put_raw(int lane, uint16_t kind, uint32_t size, const void *body)
{
    uint64_t record[32] = {0};
    struct record_header header = {size, kind, 0};
    if (body != NULL)
        memcpy(record, body, size < sizeof record ? size : sizeof record);
    memcpy(record, &header, sizeof header);
    lane_put(&s.segment.lanes[lane], record);
}

/* Sound but for its place: it goes on at the beginning of the lane, where padding belongs before it. */
static void put_across_the_end(struct record_begin *begin)
{
    struct lane *lane = &s.segment.lanes[LANE_ACTION];
    uint64_t tail = 0;
    for (; lane->size - tail >= sizeof *begin; tail = atomic_load(&lane->tail->tail)) {
        ck_assert(lane_put(lane, begin));
        begin->action_serial++;
    }
    ck_assert_uint_lt(tail, lane->size);
    ck_assert_int_gt(drain(), 0);
    memcpy(lane->data + tail, begin, lane->size - tail);
    memcpy(lane->data, (const char *)begin + (lane->size - tail), sizeof *begin - (lane->size - tail));
    atomic_store(&lane->tail->tail, tail + sizeof *begin);
}

START_TEST(a_bad_record_is_refused)
{
    struct record_sample sample = {.header = {sizeof sample, RECORD_SAMPLE, 0}, .stack = 0};
    struct record_begin begin = {.header = {sizeof begin, RECORD_BEGIN, 0}, .action_serial = 1, .type = 1};
    switch (_i) {
    case 0: /* unknown kind */
        put_raw(LANE_ACTION, 77, 16, NULL);
        break;
    case 1: /* wrong size for its kind */
        put_raw(LANE_ACTION, RECORD_BEGIN, 64, NULL);
        break;
    case 2: /* in the wrong lane */
        put_raw(LANE_ACTION, RECORD_SAMPLE, sizeof sample, &sample);
        break;
    case 3: /* a stack that was never defined */
        sample.stack = 1;
        lane_put(&s.segment.lanes[LANE_SAMPLER], &sample);
        break;
    case 4: /* a state that does not exist */
        sample.state = SAMPLE_STATES;
        lane_put(&s.segment.lanes[LANE_SAMPLER], &sample);
        break;
    case 5: /* a type that was never defined */
        begin.type = 2;
        lane_put(&s.segment.lanes[LANE_ACTION], &begin);
        break;
    case 6: /* … or cannot be */
        begin.type = UINT32_MAX;
        lane_put(&s.segment.lanes[LANE_ACTION], &begin);
        break;
    case 7: /* a tail beyond the lane */
        atomic_store(&s.segment.worker->lanes[LANE_ACTION].tail, UINT64_C(1) << 40);
        break;
    case 8: /* a tail that is no multiple of 8 */
        atomic_store(&s.segment.worker->lanes[LANE_ACTION].tail, 12);
        break;
    case 9: /* a record of no length would never end */
        memset(s.segment.lanes[LANE_ACTION].data, 0, 64);
        atomic_store(&s.segment.worker->lanes[LANE_ACTION].tail, 64);
        break;
    case 10: /* definitions beyond their area */
        atomic_store(&s.segment.worker->defined[DEFINITIONS_SAMPLER], UINT64_C(1) << 40);
        break;
    case 11: /* padding in the middle */
        put_raw(LANE_ACTION, RECORD_PADDING, 16, NULL);
        break;
    case 12: /* begun twice */
        lane_put(&s.segment.lanes[LANE_ACTION], &begin);
        lane_put(&s.segment.lanes[LANE_ACTION], &begin);
        break;
    case 13: /* a counter that falls */
        synthetic_count(&s, 1, MS);
        ck_assert_int_gt(drain(), 0);
        atomic_store(&s.segment.counters->row[1].count, 0);
        atomic_fetch_add(&s.segment.counters->row[1].changes, 1);
        break;
    case 14: /* a histogram block out of range */
        synthetic_count(&s, 1, MS);
        atomic_store(&s.segment.counters->row[1].octave[3], HISTOGRAM_BLOCKS + 1);
        break;
    case 15: /* a block that belongs to two */
        synthetic_count(&s, 1, MS);
        atomic_store(&s.segment.counters->row[1].octave[3], 1);
        break;
    case 16:
        put_across_the_end(&begin);
        break;
    case 17: /* a coarse count that falls */
        synthetic_count(&s, 1, MS);
        atomic_store(&s.segment.counters->row[1].octave[3], OCTAVE_COARSE + 5);
        ck_assert_int_gt(drain(), 0);
        atomic_store(&s.segment.counters->row[1].octave[3], OCTAVE_COARSE + 4);
        atomic_fetch_add(&s.segment.counters->row[1].changes, 1);
        break;
    }
    ck_assert_int_eq(drain(), -EPROTO);
}
END_TEST

START_TEST(a_bad_definition_is_refused)
{
    struct definitions *area = &s.segment.definitions[DEFINITIONS_SAMPLER];
    struct define_string string = {.header.kind = DEFINE_STRING, .length = 3};
    struct define_code code = {.header.kind = DEFINE_CODE, .file = 1, .length = 1};
    struct define_node node = {.header.kind = DEFINE_NODE, .code = 1};
    ck_assert(definitions_put(area, &string, sizeof string, "f.p", 3));
    ck_assert(definitions_put(area, &code, sizeof code, "f", 1));
    ck_assert_int_ge(drain(), 0);
    switch (_i) {
    case 0: /* its own parent: a walk would go round for ever */
        node.parent = 1;
        definitions_put(area, &node, sizeof node, NULL, 0);
        break;
    case 1:
        node.parent = 100;
        definitions_put(area, &node, sizeof node, NULL, 0);
        break;
    case 2:
        node.code = 2;
        definitions_put(area, &node, sizeof node, NULL, 0);
        break;
    case 3:
        code.file = 9;
        definitions_put(area, &code, sizeof code, "f", 1);
        break;
    case 4: /* longer than it says */
        string.length = 4096;
        definitions_put(area, &string, sizeof string, "f.p", 3);
        break;
    case 5: /* a length that would wrap */
        string.length = UINT32_MAX;
        definitions_put(area, &string, sizeof string, "f.p", 3);
        break;
    case 6: /* of the other area */
        synthetic_type(&s, 2, "x");
        node.header.kind = DEFINE_TYPE;
        definitions_put(area, &node, sizeof node, NULL, 0);
        break;
    case 7: /* a type defined twice */
        synthetic_type(&s, 1, "again");
        break;
    }
    ck_assert_int_eq(drain(), -EPROTO);
}
END_TEST

START_TEST(a_file_cut_under_our_feet_is_an_error_not_a_crash)
{
    synthetic_count(&s, 1, MS);
    ck_assert_int_eq(truncate(worker->path, SEGMENT_PAGE), 0);
    ck_assert_int_eq(drain(), -EPROTO);
    worker_store_heads(worker);
    /* What this process itself has mapped is gone too: it must not be touched by the tear-down. */
}
END_TEST

START_TEST(files_that_are_not_a_workers_own_are_refused)
{
    struct worker *other;
    char link_path[DIRECTORY_PATH_MAX + 16];
    ck_assert_int_eq(worker_open(&other, worker->path, geteuid() + 1, 2), -EPERM);
    snprintf(link_path, sizeof link_path, "%s/rings/l.ring", s.pool);
    ck_assert_int_eq(symlink(worker->path, link_path), 0);
    ck_assert_int_eq(worker_open(&other, link_path, geteuid(), 2), -ELOOP);
    unlink(link_path);
    ck_assert_int_eq(link(worker->path, link_path), 0);
    ck_assert_int_eq(worker_open(&other, link_path, geteuid(), 2), -EPERM);
    unlink(link_path);
    ck_assert_int_eq(mkfifo(link_path, 0600), 0);
    ck_assert_int_lt(worker_open(&other, link_path, geteuid(), 2), 0);
    unlink(link_path);
    ck_assert_int_eq(worker_open(&other, link_path, geteuid(), 2), -ENOENT);
}
END_TEST

START_TEST(the_death_of_a_process_is_seen_and_what_it_wrote_is_read)
{
    struct synthetic child = s;
    int ready[2];
    char byte;
    ck_assert_int_eq(pipe(ready), 0);
    char rings[DIRECTORY_PATH_MAX];
    ck_assert_int_eq(directory_join(rings, s.pool, "rings"), 0);
    unlink(worker->path);
    pid_t pid = fork();
    if (pid == 0) {
        synthetic_attach(&child);
        synthetic_type(&child, 1, "/child");
        synthetic_count(&child, 1, MS);
        if (write(ready[1], "x", 1) == 1)
            pause();
        _exit(0);
    }
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    worker_close(worker);
    open_worker();
    ck_assert(worker_alive(worker));
    ck_assert_int_eq(worker->header.pid, pid);
    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    ck_assert(!worker_alive(worker));
    ck_assert_int_gt(drain(), 0);
    ck_assert_uint_eq(totals("/child")->count, 1);
    close(ready[0]);
    close(ready[1]);
}
END_TEST

START_TEST(a_reused_pid_is_not_taken_for_the_worker)
{
    char path[DIRECTORY_PATH_MAX];
    snprintf(path, sizeof path, "%s", worker->path);
    s.segment.header->start_time_ticks++;
    worker_close(worker);
    ck_assert_int_eq(worker_open(&worker, path, geteuid(), 3), 0);
    ck_assert(!worker_alive(worker));
}
END_TEST

START_TEST(a_segment_of_another_boot_is_a_dead_ones)
{
    char path[DIRECTORY_PATH_MAX];
    snprintf(path, sizeof path, "%s", worker->path);
    s.segment.header->boot_id[0] ^= 1;
    worker_close(worker);
    ck_assert_int_eq(worker_open(&worker, path, geteuid(), 3), 0);
    ck_assert_msg(!worker_alive(worker), "though a process of that pid and start time is there");
}
END_TEST

int main(void)
{
    guard_install();
    Suite *suite = suite_create("workers");
    TCase *cases = tcase_create("promises");
    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_test(cases, what_a_worker_recorded_arrives_as_a_profile);
    tcase_add_test(cases, what_the_sampler_could_not_place_is_counted_apart);
    tcase_add_test(cases, counters_are_merged_by_difference_and_a_second_drain_adds_nothing);
    tcase_add_test(cases, a_worker_of_before_is_counted_but_its_strata_are_not_taken_for_ours);
    tcase_add_test(cases, a_spent_pool_of_buckets_is_merged_octave_by_octave);
    tcase_add_test(cases, a_lane_that_wraps_many_times_loses_nothing_while_it_is_drained);
    tcase_add_test(cases, without_a_checkpoint_the_head_stays_and_a_full_lane_counts_its_losses);
    tcase_add_loop_test(cases, a_bad_record_is_refused, 0, 18);
    tcase_add_loop_test(cases, a_bad_definition_is_refused, 0, 8);
    tcase_add_test(cases, a_file_cut_under_our_feet_is_an_error_not_a_crash);
    tcase_add_test(cases, files_that_are_not_a_workers_own_are_refused);
    tcase_add_test(cases, the_death_of_a_process_is_seen_and_what_it_wrote_is_read);
    tcase_add_test(cases, a_reused_pid_is_not_taken_for_the_worker);
    tcase_add_test(cases, a_segment_of_another_boot_is_a_dead_ones);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_NOFORK);
}
