/*
 * Writer: a worker as far as shared memory goes. It begins and ends actions, one nested in the other, puts
 * samples for them and outside of them, counts other actions, takes tokens, and goes on in a fresh segment
 * now and then. It dies by SIGKILL, sometimes of its own will at a test point.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <signal.h>
#include <unistd.h>

#include "shm/budget.h"
#include "shm/clock.h"
#include "shm/testpoint.h"
#include "tests/torture/kill.h"

enum {
    NODES = 3,
    NODE_EVERY = 40, /* samples until the next stack node is defined and used */
    BURST = 500,     /* samples that are more than a small lane takes */
};

static struct shared *shared;
static struct life *life;
static struct segment segment;
static uint32_t nodes;
static uint64_t serial, number, random_state;
static struct budget_page *budget;
static const struct rates_page *rates;

static uint32_t upto(uint32_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(random_state >> 33) % n;
}

/* The record is put, and the ledger follows, as kill.h says. */
static bool put(const struct op *op, const void *record)
{
    life->pending = *op;
    atomic_signal_fence(memory_order_seq_cst); /* a killed process's stores are all there, in this order */
    bool done = lane_put(&segment.lanes[op->lane], record);
    uint32_t current = atomic_load_explicit(&life->current, memory_order_relaxed);
    struct book *next = &life->book[!current];
    *next = life->book[current];
    book_apply(next, op, done);
    struct lane_tail *tail = segment.lanes[op->lane].tail;
    next->tail[op->lane] = atomic_load_explicit(&tail->tail, memory_order_relaxed);
    next->lost[op->lane] = atomic_load_explicit(&tail->lost_records, memory_order_relaxed);
    atomic_store_explicit(&life->current, !current, memory_order_release);
    return done;
}

/* ---- definitions --------------------------------------------------------------------------------------- */

static void define(int area, void *head, uint32_t head_bytes, const char *text)
{
    if (!definitions_put(&segment.definitions[area], head, head_bytes, text,
                         text != NULL ? (uint32_t)strlen(text) : 0))
        abort(); /* far less is defined than there is room for */
}

static void define_type(uint32_t type, const char *letter, uint32_t class)
{
    char name[40];
    snprintf(name, sizeof name, "%s%u", letter, class);
    struct define_type head = {.header.kind = DEFINE_TYPE, .type = type, .length = (uint32_t)strlen(name)};
    define(DEFINITIONS_ACTION, &head, sizeof head, name);
    atomic_store_explicit(&segment.counters->rows_used, type + 1, memory_order_release);
}

static void define_node(void)
{
    struct define_node head = {.header.kind = DEFINE_NODE, .code = 1, .line = ++nodes};
    define(DEFINITIONS_SAMPLER, &head, sizeof head, NULL);
}

static void begin_life(const char *rings)
{
    uint32_t index = atomic_fetch_add(&shared->lives, 1);
    if (index >= LIVES_MOST)
        _exit(0);
    struct life *fresh = &shared->life[index];
    fresh->pid = getpid();
    if (segment_create(&segment, rings, "kill", 0x030c01f0, &segment_small_sizes) != 0)
        _exit(3);
    for (int i = 0, n = snprintf(fresh->path, sizeof fresh->path, "%s/", rings); i < 16; i++)
        sprintf(fresh->path + n + 2 * i, i == 15 ? "%02x.ring" : "%02x", segment.header->uuid[i]);
    life = fresh;
    nodes = 0;
    serial = number = 0;
    define_type(0, "(other)", 0);
    define_type(1, "root", index % CLASSES);
    define_type(2, "nested", index % CLASSES);
    define_type(3, "counted", index % CLASSES);
    char file[16];
    snprintf(file, sizeof file, "w%u", index);
    struct define_string string = {.header.kind = DEFINE_STRING, .length = (uint32_t)strlen(file)};
    define(DEFINITIONS_SAMPLER, &string, sizeof string, file);
    struct define_code code = {.header.kind = DEFINE_CODE, .file = 1, .first_line = 1, .length = 1};
    define(DEFINITIONS_SAMPLER, &code, sizeof code, "f");
    atomic_store_explicit(&life->stage, STAGE_MADE, memory_order_release);
    while (atomic_load_explicit(&life->stage, memory_order_acquire) != STAGE_MAPPED)
        usleep(200);
}

/* ---- records ------------------------------------------------------------------------------------------- */

static bool sample(enum op_kind kind, uint64_t of)
{
    number++;
    uint32_t node = number % NODE_EVERY == 1 && nodes < NODES ? nodes + 1 : 1 + upto(nodes);
    struct op op = {
        .kind = kind, .lane = LANE_SAMPLER, .wall = number, .cpu = number * 2654435761u % 1000003};
    struct record_sample record = {
        .header = {sizeof record, RECORD_SAMPLE, 0},
        .time_ns = clock_monotonic_ns(),
        .action_serial = of,
        .stack = node,
        .state = STATE_NATIVE,
        .wall_ns = op.wall,
        .cpu_ns = op.cpu,
    };
#ifdef POM_BREAK_DEFINITION_AFTER_USE
    bool done = put(&op, &record);
    if (node > nodes)
        define_node();
    return done;
#endif
    if (node > nodes)
        define_node();
    return put(&op, &record);
}

static uint64_t begin(enum op_kind kind, uint64_t parent)
{
    struct op op = {.kind = kind, .lane = LANE_ACTION};
    struct record_begin record = {
        .header = {sizeof record, RECORD_BEGIN, 0},
        .time_ns = clock_monotonic_ns(),
        .action_serial = ++serial,
        .parent_serial = parent,
        .thread = 1,
        .type = kind == OP_BEGIN_ROOT ? 1 : 2,
        .probability = UINT32_MAX,
        .interval_us = 10000,
        .granularity = GRANULARITY_LINE,
    };
    if (!put(&op, &record))
        return 0;
    TESTPOINT("action-begun"); /* The aggregator sees an action that will never end. */
    if (parent == 0)
        counter_add(&segment.worker->admitted, 1);
    return serial;
}

static void end(enum op_kind kind, uint64_t of)
{
    struct op op = {.kind = kind, .lane = LANE_ACTION, .latency = 1000 + number};
    struct record_end record = {
        .header = {sizeof record, RECORD_END, 0},
        .time_ns = clock_monotonic_ns(),
        .action_serial = of,
        .latency_ns = op.latency,
        .type = kind == OP_END_ROOT ? 1 : 2,
    };
    put(&op, &record);
    TESTPOINT("action-ended"); /* The aggregator sees it all, and closes it when it has read the samples. */
}

static void work(void)
{
    uint64_t root = begin(OP_BEGIN_ROOT, 0);
    for (uint32_t i = upto(5); root != 0 && i > 0; i--)
        sample(OP_SAMPLE_ROOT, root);
    uint64_t nested = root != 0 && upto(3) == 0 ? begin(OP_BEGIN_NESTED, root) : 0;
    for (uint32_t i = upto(4); nested != 0 && i > 0; i--)
        sample(OP_SAMPLE_NESTED, nested);
    if (upto(50) == 0)
        usleep(30000); /* open over several checkpoints */
    for (uint32_t i = upto(2); root != 0 && i > 0; i--)
        sample(OP_SAMPLE_ROOT, root);
    if (nested != 0)
        end(OP_END_NESTED, nested);
    if (root != 0) {
        sample(OP_SAMPLE_ROOT, root); /* its last, as close to its end as can be */
        end(OP_END_ROOT, root);
    }
    for (uint32_t i = upto(3); i > 0; i--)
        counters_add(segment.counters, 3, COUNTED_NS, false, DENIED_LOTTERY);
    for (uint32_t i = upto(100) == 0 ? BURST : upto(3); i > 0; i--)
        sample(OP_OUTSIDE, 0);
    counter_add(&segment.worker->hooks, 1);
}

/* ---- pages --------------------------------------------------------------------------------------------- */

static void *map_page(const char *pool, const char *name, size_t bytes)
{
    char path[DIRECTORY_PATH_MAX];
    int fd = directory_join(path, pool, name) == 0 ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return NULL;
    void *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return page != MAP_FAILED ? page : NULL;
}

/* As limits_ring does. */
static void ring(const char *pool)
{
    char path[DIRECTORY_PATH_MAX];
    bool fills =
        lane_is_filling(&segment.lanes[LANE_SAMPLER]) || lane_is_filling(&segment.lanes[LANE_ACTION]);
    if (fills && budget_take_ring(budget) && directory_join(path, pool, "budget") == 0)
        utimensat(AT_FDCWD, path, NULL, AT_SYMLINK_NOFOLLOW);
}

static void use_pages(const char *pool)
{
    if (budget == NULL)
        budget = map_page(pool, "budget", sizeof *budget);
    if (rates == NULL)
        rates = map_page(pool, "rates", sizeof *rates);
    uint32_t cycle = (uint32_t)(clock_monotonic_ns() / NS_PER_SECOND);
    if (budget != NULL && budget_take(budget, cycle, TOKENS_A_CYCLE))
        atomic_fetch_add(&shared->tokens[cycle % TOKEN_CYCLES], 1);
    if (budget != NULL)
        ring(pool);
    struct rates read;
    if (rates == NULL || atomic_load_explicit(&rates->generation, memory_order_acquire) == 0 ||
        !rates_read(rates, &read))
        return;
    /* The aggregator of a pool for which nobody asks anything publishes the defaults, or less. */
    if (read.cycle_ns != NS_PER_SECOND || read.cap > 10 || read.interval_ns < 10000000 ||
        read.granularity > GRANULARITY_LINE)
        atomic_fetch_add(&shared->wrong_rates, 1);
}

_Noreturn void writer_run(struct shared *all, const char *pool, const char *label, unsigned n, uint64_t seed)
{
    char rings[DIRECTORY_PATH_MAX];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    shared = all;
    random_state = seed;
    testpoint_arm(label, n);
    if (directory_join(rings, pool, "rings") != 0)
        _exit(3);
    begin_life(rings);
    for (uint32_t left = 50 + upto(400); !atomic_load(&shared->stop);) {
        work();
        use_pages(pool);
        usleep(upto(8) == 0 ? 3000 : upto(400));
        if (--left != 0)
            continue;
        atomic_store_explicit(&segment.worker->state, SEGMENT_CLOSED, memory_order_release);
        TESTPOINT("segment-closed"); /* The aggregator drains it once more, and removes it. */
        segment_unmap(&segment);
        if (upto(4) == 0)
            _exit(0);
        begin_life(rings);
        left = 50 + upto(400);
    }
    _exit(0);
}
