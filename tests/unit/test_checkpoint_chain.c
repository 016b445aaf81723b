/* What a chain of pieces promises: loaded, it leaves a pool as it was when the last whole piece was written.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "aggregator/checkpoint.h"
#include "aggregator/checkpoint_piece.h"
#include "aggregator/destination/destination.h"
#include "aggregator/guard.h"
#include "aggregator/log.h"
#include "aggregator/pool.h"
#include "aggregator/store.h"
#include "shm/fault.h"
#include "tests/unit/pool_state.h"
#include "tests/unit/suite.h"
#include "tests/unit/synthetic.h"

#define MS UINT64_C(1000000)

enum {
    WORKERS = 4,
    NODES = 12,
    OPEN_MOST = 40,
    STEPS = 300,
    CHAIN_GROWTH = 4 << 20, /* of one that is begun anew where there is room enough: checkpoint.c */
};

/* A worker that does at random what workers do. */
struct actor {
    struct synthetic s;
    uint32_t node[NODES], nodes;
    uint64_t open[OPEN_MOST];
    uint32_t type[OPEN_MOST];
    int count;
    bool closed;
};

static struct actor actor[WORKERS];
static struct pool *pool;
static struct config config;
static char path[DIRECTORY_PATH_MAX];
static uint64_t now;

static void open_pool(void)
{
    ck_assert_int_eq(pool_open(&pool, actor[0].s.directory, actor[0].s.name, &config), 0);
}

static void attach(struct actor *a)
{
    synthetic_attach(&a->s);
    synthetic_type(&a->s, 0, "(other)");
    synthetic_type(&a->s, 1, "/cart");
    synthetic_type(&a->s, 2, "charge");
    a->nodes = 0;
    a->node[a->nodes++] = synthetic_node(&a->s, 0, "app/main.py", "serve", 1);
    a->count = 0;
    a->closed = false;
}

static void set_up(void)
{
    synthetic_directory(&actor[0].s);
    for (int i = 0; i < WORKERS; i++) {
        if (i != 0)
            actor[i].s = actor[0].s;
        attach(&actor[i]);
    }
    ck_assert_int_eq(directory_join(path, actor[0].s.pool, "checkpoint"), 0);
    now = clock_monotonic_ns();
    open_pool();
}

static void tear_down(void)
{
    pool_close(pool);
    for (int i = 1; i < WORKERS; i++)
        segment_unmap(&actor[i].s.segment);
    synthetic_end(&actor[0].s);
}

/* ---- another life -------------------------------------------------------------------------------------- */

static void forget(struct known_worker **link)
{
    struct known_worker *known = *link;
    *link = known->next;
    taken_close(&known->taken);
    free(known);
}

/* The state that another life would load now. It opens no segment, so that heads stay as they are. */
static char *loaded(void)
{
    struct pool other = {.rings = "/nonexistent", .chain.fd = -1};
    snprintf(other.path, sizeof other.path, "%s", pool->path);
    ck_assert_int_eq(merge_open(&other.merge, 0, 0), 0);
    int rc = checkpoint_load(&other);
    ck_assert_msg(rc == 0, "%s", fault_text());
    /* Workers that were removed after the piece are still known to it. */
    for (struct known_worker **link = &other.known; *link != NULL;)
        if (pool_worker(pool, (*link)->number) != NULL)
            link = &(*link)->next;
        else
            forget(link);
    char *state = state_of(&other);
    while (other.known != NULL)
        forget(&other.known);
    windows_free(&other.windows);
    merge_close(&other.merge);
    return state;
}

/* ---- doing things at random ---------------------------------------------------------------------------- */

static long upto(long n)
{
    return lrand48() % n;
}

static void end_one(struct actor *a, int i)
{
    synthetic_finish(&a->s, a->open[i], a->type[i], (uint64_t)(1 + upto(50)) * MS, upto(5) == 0);
    a->open[i] = a->open[--a->count];
    a->type[i] = a->type[a->count];
}

/* Out of order, nested in anything that is open, with samples of any. */
static void act(struct actor *a)
{
    if (a->closed)
        return;
    if (a->nodes < NODES && upto(20) == 0) {
        char name[16];
        snprintf(name, sizeof name, "f%u", a->nodes);
        uint32_t under = a->node[upto((long)a->nodes)];
        a->node[a->nodes] = synthetic_node(&a->s, under, "app/code.py", name, a->nodes);
        a->nodes++;
    }
    long what = upto(10);
    if (what < 2 && a->count < OPEN_MOST) {
        uint64_t parent = a->count != 0 && upto(2) != 0 ? a->open[upto(a->count)] : 0;
        a->type[a->count] = 1 + (parent != 0);
        a->open[a->count] = synthetic_begin(&a->s, a->type[a->count], parent, parent != 0 ? 0.5 : 1);
        a->count++;
    } else if (what < 4 && a->count != 0) {
        end_one(a, (int)upto(a->count));
    } else if (what < 5 && a->count != 0) {
        char text[32];
        snprintf(text, sizeof text, "{\"n\":%ld}", upto(1000000));
        synthetic_message(&a->s, a->open[upto(a->count)], text, strlen(text), (unsigned)upto(3),
                          (uint32_t)upto(9));
    } else if (what < 9 && a->count != 0) {
        synthetic_sample(&a->s, a->open[upto(a->count)], a->node[upto((long)a->nodes)],
                         (enum sample_state)upto(SAMPLE_STATES), (uint64_t)upto(1000));
    } else {
        synthetic_count(&a->s, 1 + (uint32_t)upto(2), (uint64_t)(1 + upto(1000)) * 10000);
    }
}

static void replace(struct actor *a)
{
    synthetic_close_segment(&a->s);
    a->closed = true;
    pool_round(pool);
    segment_unmap(&a->s.segment);
    attach(a);
    pool_scan(pool, true);
}

static void close_window_now(void)
{
    now += 2 * POOL_WINDOW_NS;
    pool_account(pool, 12345, now);
    pool_cycle(pool, now);
}

/* As if there were no room for another sample: some actions are folded. */
static void starve(void)
{
    struct actions *actions = &pool->merge.actions;
    uint32_t room = actions->samples_room, high = actions->samples_high, unused = actions->samples_free;
    actions->samples_free = ACTIONS_NONE;
    actions->samples_high = actions->samples_room = ACTIONS_SAMPLES_MOST;
    for (int i = 0; i < WORKERS; i++)
        for (int n = 0; n < 10 && actor[i].count != 0; n++)
            synthetic_sample(&actor[i].s, actor[i].open[upto(actor[i].count)], actor[i].node[0], STATE_CPU,
                             7);
    pool_round(pool);
    uint32_t *end = &actions->samples_free;
    while (*end != ACTIONS_NONE)
        end = &actions->sample[*end].next;
    *end = unused;
    actions->samples_high = high;
    actions->samples_room = room;
}

static void step(void)
{
    for (int i = 0; i < WORKERS; i++)
        for (long n = upto(60); n > 0; n--)
            act(&actor[i]);
    pool_round(pool);
    if (upto(40) == 0)
        replace(&actor[upto(WORKERS)]);
    if (upto(25) == 0)
        close_window_now();
    if (upto(60) == 0)
        starve();
}

/* ---- promises ------------------------------------------------------------------------------------------ */

START_TEST(a_chain_says_all_that_changed)
{
    srand48(_i + 1);
    unsigned pieces = 0, chains = 0;
    for (int i = 0; i < STEPS; i++) {
        step();
        if (upto(3) == 0)
            continue;
        uint64_t before = pool->chain.bytes;
        ck_assert_int_eq(checkpoint_write(pool), 0);
        pieces++;
        chains += pool->chain.bytes <= before;
        if (upto(4) != 0)
            continue;
        char *here = state_of(pool), *there = loaded();
        ck_assert_msg(strcmp(here, there) == 0, "%s", first_difference(here, there));
        free(here);
        free(there);
        if (upto(6) == 0) {
            pool_close(pool);
            open_pool();
        }
    }
    ck_assert_uint_gt(pieces, STEPS / 2);
    ck_assert_uint_lt(chains, pieces / 2); /* most of them did go into a chain */
}
END_TEST

/* Two pieces, of which the second tells that one action more ended; then the file's bytes. */
static size_t two_pieces(char **bytes)
{
    for (int i = 0; i < 2; i++) {
        uint64_t serial = synthetic_begin(&actor[0].s, 1, 0, 1);
        ck_assert(synthetic_sample(&actor[0].s, serial, actor[0].node[0], STATE_CPU, 10 * MS));
        synthetic_finish(&actor[0].s, serial, 1, 10 * MS, false);
        pool_round(pool);
        pool_round(pool);
        ck_assert_int_eq(checkpoint_write(pool), 0);
    }
    size_t size;
    ck_assert_int_eq(store_chain_read(path, bytes, &size), 0);
    ck_assert_uint_eq(size, pool->chain.bytes);
    return size;
}

static void put_bytes(const char *bytes, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert_int_eq(write(fd, bytes, size), (ssize_t)size);
    close(fd);
}

START_TEST(a_tail_torn_anywhere_is_the_state_before_it)
{
    char *bytes, *early = NULL;
    size_t size = two_pieces(&bytes);
    size_t first = sizeof(uint64_t) * 3 + pool->whole_bytes;
    ck_assert_uint_lt(first, size);
    for (size_t cut = first; cut < size; cut += 1 + (size_t)upto(3)) {
        put_bytes(bytes, cut);
        char *state = loaded();
        if (early == NULL)
            early = state;
        ck_assert_msg(strcmp(state, early) == 0, "cut at %zu: %s", cut, first_difference(early, state));
        if (state != early)
            free(state);
    }
    put_bytes(bytes, size);
    char *late = loaded();
    ck_assert_int_ne(strcmp(late, early), 0);
    free(late);
    free(early);
    free(bytes);
}
END_TEST

START_TEST(what_an_earlier_attempt_left_behind_the_end_is_no_part_of_it)
{
    char *bytes, *three;
    size_t two = two_pieces(&bytes), first = sizeof(uint64_t) * 3 + pool->whole_bytes, size;
    for (int i = 0; i < 3; i++)
        synthetic_count(&actor[0].s, 1, MS);
    pool_round(pool);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    ck_assert_int_eq(store_chain_read(path, &three, &size), 0);
    char *once = loaded();
    three = realloc(three, size + two - first);
    memcpy(three + size, bytes + first, two - first); /* the second again: whole, but not the next */
    put_bytes(three, size + two - first);
    char *again = loaded();
    ck_assert_msg(strcmp(once, again) == 0, "%s", first_difference(once, again));
    free(once);
    free(again);
    free(three);
    free(bytes);
}
END_TEST

START_TEST(what_a_damaged_piece_held_is_not_read_from_lanes_that_were_overwritten)
{
    char *bytes;
    size_t size = two_pieces(&bytes), first = sizeof(uint64_t) * 3 + pool->whole_bytes;
    bytes[(first + size) / 2] ^= 1;
    put_bytes(bytes, size);
    free(bytes);
    pool_close(pool);
    open_pool();
    /* The heads have passed what the damaged piece held, so it is gone, once; what comes is counted. */
    uint64_t samples = pool->merge.open->sums.samples;
    ck_assert_uint_eq(samples, 1);
    pool_round(pool);
    ck_assert_uint_eq(pool->merge.open->sums.samples, 1);
    uint64_t serial = synthetic_begin(&actor[0].s, 1, 0, 1);
    ck_assert(synthetic_sample(&actor[0].s, serial, actor[0].node[0], STATE_CPU, 10 * MS));
    pool_round(pool);
    ck_assert_uint_eq(pool->merge.open->sums.samples, 2);
    ck_assert_uint_eq(pool->quarantined, 0);
}
END_TEST

START_TEST(a_piece_that_found_no_room_is_written_later)
{
    char *bytes;
    two_pieces(&bytes);
    free(bytes);
    struct rlimit before, none;
    uint64_t end = pool->chain.bytes;
    for (int i = 0; i < 20; i++)
        synthetic_begin(&actor[0].s, 1, 0, 1);
    pool_round(pool);
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    none = before;
    none.rlim_cur = end + 100; /* the piece begins to be written, and stops in the middle */
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &none), 0);
    int rc = checkpoint_write(pool);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
    ck_assert_int_ne(rc, 0);
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq((uint64_t)st.st_size, end);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    ck_assert_uint_gt(pool->chain.bytes, end);
    char *here = state_of(pool), *there = loaded();
    ck_assert_str_eq(here, there);
    free(here);
    free(there);
}
END_TEST

START_TEST(where_more_changed_than_could_be_noted_a_piece_tells_of_everything)
{
    char *bytes;
    two_pieces(&bytes);
    free(bytes);
    for (int i = 0; !pool->merge.actions.untold && i < 5 * ACTIONS_MOST; i++) {
        synthetic_finish(&actor[0].s, synthetic_begin(&actor[0].s, 1, 0, 1), 1, MS, false);
        if (i % 100 == 0) {
            pool_round(pool);
            pool_store_heads(pool);
        }
    }
    ck_assert(pool->merge.actions.untold);
    synthetic_begin(&actor[0].s, 1, 0, 1); /* of which no note was made */
    pool_round(pool);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    char *here = state_of(pool), *there = loaded();
    ck_assert_msg(strcmp(here, there) == 0, "%s", first_difference(here, there));
    free(here);
    free(there);
}
END_TEST

/* How long a chain becomes before it is. */
static uint64_t grow_until_begun_anew(void)
{
    char *bytes;
    two_pieces(&bytes);
    free(bytes);
    enum { EACH = 100 };
    uint64_t serial[WORKERS][EACH], most = 0;
    bool anew = false;
    for (int i = 0; i < 400 && !anew; i++) {
        for (int w = 0; w < WORKERS; w++)
            for (int n = 0; n < EACH; n++) {
                if (i != 0)
                    synthetic_finish(&actor[w].s, serial[w][n], 1, MS, false);
                serial[w][n] = synthetic_begin(&actor[w].s, 1, 0, 1);
            }
        pool_round(pool);
        ck_assert_int_eq(checkpoint_write(pool), 0);
        anew = pool->chain.bytes < most;
        most = anew ? most : pool->chain.bytes;
    }
    ck_assert(anew);
    return most;
}

START_TEST(a_long_chain_is_begun_anew)
{
    ck_assert_uint_gt(grow_until_begun_anew(), CHAIN_GROWTH);
}
END_TEST

/* In a file system of its own, which only root can have. */
START_TEST(a_chain_is_begun_anew_before_it_takes_what_room_is_left)
{
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return;
    tear_down();
    ck_assert_int_eq(mount("none", "/dev/shm", "tmpfs", 0, "size=6m"), 0);
    set_up();
    ck_assert_uint_lt(grow_until_begun_anew(), CHAIN_GROWTH);
    tear_down();
    ck_assert_int_eq(umount("/dev/shm"), 0);
    set_up();
}
END_TEST

/* After a while without an aggregator: more than may be kept open, but each worker has said all it had to. */
START_TEST(actions_of_many_dead_workers_are_not_given_up_for_want_of_room)
{
    enum { DEAD = 70, EACH = 240 };
    ck_assert_int_gt(DEAD * EACH, ACTIONS_MOST);
    for (int i = 0; i < DEAD; i++) {
        struct synthetic dead = actor[0].s;
        synthetic_attach(&dead);
        synthetic_type(&dead, 0, "(other)");
        synthetic_type(&dead, 1, "/cart");
        for (int k = 0; k < EACH; k++)
            synthetic_finish(&dead, synthetic_begin(&dead, 1, 0, 1), 1, MS, false);
        synthetic_close_segment(&dead);
        segment_unmap(&dead.segment);
    }
    pool_scan(pool, true);
    for (int i = 0; i < 4; i++)
        pool_round(pool);
    const struct window *open = pool->merge.open;
    ck_assert_uint_eq(open->sums.folded, 0);
    ck_assert_uint_eq(open->sums.unfinished, 0);
    uint64_t ended = 0;
    for (uint32_t i = 0; i < open->profile.types; i++)
        ended += open->profile.type[i].ended;
    ck_assert_uint_eq(ended, DEAD * EACH);
}
END_TEST

START_TEST(bytes_that_ask_for_much_memory_are_refused)
{
    static const char *const greedy[] = {"\xdd\xff\xff\xff\xff", "\xdc\xff\xff\x90",
                                         "\xc6\xff\xff\xff\xff", "\x91\x91\x91\x91\x91\x91\x91\x91\x91\xc0",
                                         "\x81\x01\x01",         "\x92\x01",
                                         "\x91\x01\x01"};
    for (size_t i = 0; i < sizeof greedy / sizeof *greedy; i++) {
        struct pack_reader reader;
        ck_assert(!pack_open(&reader, greedy[i], strlen(greedy[i]), greedy[i][0] & 0x0f));
        pack_close(&reader);
    }
    struct pack_reader reader;
    ck_assert(pack_open(&reader,
                        "\x92\x01\xc4\x02"
                        "ab",
                        6, 2));
    pack_close(&reader);
    ck_assert(!pack_open(&reader, "", 0, 0));
    pack_close(&reader);
}
END_TEST

int main(void)
{
    guard_install();
    destinations_start();
    log_open("/dev/null");
    Suite *suite = suite_create("checkpoint chain");
    TCase *cases = tcase_create("promises");
    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_set_timeout(cases, 60);
    tcase_add_loop_test(cases, a_chain_says_all_that_changed, 0, 3);
    tcase_add_test(cases, a_tail_torn_anywhere_is_the_state_before_it);
    tcase_add_test(cases, what_an_earlier_attempt_left_behind_the_end_is_no_part_of_it);
    tcase_add_test(cases, what_a_damaged_piece_held_is_not_read_from_lanes_that_were_overwritten);
    tcase_add_test(cases, a_piece_that_found_no_room_is_written_later);
    tcase_add_test(cases, where_more_changed_than_could_be_noted_a_piece_tells_of_everything);
    tcase_add_test(cases, a_long_chain_is_begun_anew);
    tcase_add_test(cases, a_chain_is_begun_anew_before_it_takes_what_room_is_left);
    tcase_add_test(cases, actions_of_many_dead_workers_are_not_given_up_for_want_of_room);
    tcase_add_test(cases, bytes_that_ask_for_much_memory_are_refused);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_NOFORK);
}
