/*
 * Fuzzing what a worker may do to its segment, its shared pages and the moments of it. Built by
 *
 *     scons cc=clang sanitize=address,undefined      into build-clang-address-undefined/tests/fuzz_segment
 *
 * and run as `ASAN_OPTIONS=handle_sigbus=0 fuzz_segment -handle_bus=0 [-max_total_time=60] [corpus folder]`:
 * SIGBUS is the service's own to handle.
 *
 * An input is a list of steps of 10 bytes: what to do, where, and a value. They damage a segment that holds
 * an honest worker's records, between rounds of the pool, which writes checkpoints and is killed and
 * restarted in between. Messages about all that ends are made in both forms. Nothing may
 * crash, and the report must come out as JSON at the end.
 */
#include <stdlib.h>
#include <string.h>
#include <urcu.h>

#include "aggregator/checkpoint.h"
#include "aggregator/destination/destination.h"
#include "aggregator/encode/classic.h"
#include "aggregator/encode/eliot.h"
#include "aggregator/encode/report.h"
#include "aggregator/guard.h"
#include "aggregator/log.h"
#include "aggregator/pool.h"
#include "tests/unit/no_check.h"
#include "tests/unit/synthetic.h"

enum {
    STEP_BYTES = 10,
    STEPS_MOST = 64,
    NODES = 20,
};

static struct config config;
static struct synthetic s;
static struct pool *pool;

static void work_honestly(void)
{
    uint32_t node[NODES];
    synthetic_type(&s, 0, "(other)");
    synthetic_type(&s, 1, "/cart");
    synthetic_type(&s, 2, "charge");
    for (uint32_t i = 0; i < NODES; i++)
        node[i] = synthetic_node(&s, i == 0 ? 0 : node[i / 2], "app/file.py", "call", i);
    for (uint32_t i = 0; i < 12; i++) {
        uint64_t root = synthetic_begin(&s, 1, 0, 0.5), nested = synthetic_begin(&s, 2, root, 0.5);
        for (uint32_t k = 0; k < 4; k++) {
            synthetic_sample(&s, nested, node[(i + k) % NODES], STATE_CPU, 10000000);
            synthetic_sample(&s, root, node[(i * k) % NODES], STATE_BLOCKED, 10000000);
        }
        synthetic_message(&s, nested, "{\"reached\":[1,2]}", 17, i % 3, i);
        if (i % 4 != 0)
            synthetic_finish(&s, nested, 2, 30000000 + i * 1000000, false);
        if (i % 3 != 0)
            synthetic_finish(&s, root, 1, 60000000, i % 2 != 0);
        synthetic_count(&s, 1, 1000 * i);
    }
}

/* Every message in both forms, of whatever a worker may have said. */
static void tell_root(const struct merge *merge, uint32_t root, void *context)
{
    (void)context;
    const struct origin origin = {.source = "fuzz", .pid = 1};
    free(classic_action(merge, root, &origin));
    free(eliot_action(merge, root, &origin));
}

static void tell_windows(void)
{
    for (uint32_t i = 0; i < pool->windows.count; i++) {
        const struct window *window = pool->windows.closed[i];
        for (uint32_t k = 0; k < window->profile.types; k++) {
            free(classic_profile(&pool->merge, window, &window->profile.type[k], "fuzz"));
            free(eliot_profile(&pool->merge, window, &window->profile.type[k], "fuzz"));
        }
    }
}

static void open_pool(void)
{
    if (pool_open(&pool, s.directory, s.name, &config) != 0)
        abort();
    pool->merge.on_root = tell_root;
}

static void step_pool(bool commit, bool restart)
{
    static uint64_t now;
    now = (now == 0 ? clock_monotonic_ns() : now) + NS_PER_SECOND;
    pool_scan(pool, true);
    pool_round(pool);
    pool_heartbeat(pool, now);
    pool_account(pool, 1000000, now);
    pool_cycle(pool, now);
    if (commit)
        checkpoint_write(pool);
    if (restart) {
        pool_close(pool);
        open_pool();
    }
}

/* Where the words lie that mean something; anywhere else is reached by the last case. */
static uint64_t place(uint8_t area, uint32_t offset, const struct segment_header *header)
{
    switch (area % 8) {
    case 0:
        return offset % sizeof *header;
    case 1:
        return SEGMENT_PAGE + offset % sizeof(struct worker_page);
    case 2:
        return 2 * SEGMENT_PAGE + offset % sizeof(struct aggregator_page);
    case 3:
        return header->lanes[offset % 2].offset + offset / 2 % 6144;
    case 4:
        return header->definitions[offset % 2].offset + offset / 2 % 2048;
    case 5:
        return header->counters.offset + offset % (64 + 4 * sizeof(struct counter_row));
    case 6:
        return header->counters.offset + offsetof(struct counters, block) + offset % 4096;
    default:
        return offset % header->file_bytes;
    }
}

static void cut(const char *name, uint32_t bytes)
{
    char path[DIRECTORY_PATH_MAX];
    if (directory_join(path, s.pool, name) == 0 && truncate(path, bytes) != 0)
        abort();
}

static void damage(const uint8_t *step, const struct segment_header *header)
{
    uint32_t offset, value;
    memcpy(&offset, step + 2, sizeof offset);
    memcpy(&value, step + 6, sizeof value);
    uint64_t at = place(step[1], offset, header) & ~UINT64_C(3);
    if (at + 8 > header->file_bytes)
        return;
    uint32_t *word = (uint32_t *)(void *)(s.segment.base + at);
    switch (step[0] % 16) {
    case 0:
        step_pool(value & 1, value & 2);
        break;
    case 1:
        cut(value & 1 ? "budget" : "rates", value >> 1 & 255);
        break;
    case 2:
        *word ^= UINT32_C(1) << (value & 31);
        break;
    case 3:
        *word += value % 64 * 8;
        break;
    case 4:
        word[0] = word[1] = UINT32_MAX;
        break;
    case 5:
        *word = value % 300;
        break;
    default:
        *word = value;
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    rcu_init();
    rcu_register_thread();
    log_open("/dev/null");
    return guard_install() != 0 || destinations_start() != 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    synthetic_directory(&s);
    synthetic_attach(&s);
    work_honestly();
    struct segment_header header = *s.segment.header;
    open_pool();
    for (size_t i = 0; i < STEPS_MOST && (i + 1) * STEP_BYTES <= size; i++)
        damage(data + i * STEP_BYTES, &header);
    step_pool(false, false);
    step_pool(true, true);
    pool_publish(pool, clock_monotonic_ns());
    struct report_facts facts = {.source = "fuzz", .cycle_ms = 1000};
    struct report_options options = {.limit = 20, .stacks = true};
    json_t *report = report_build(&pool->merge, pool->windows.published, &facts, &options);
    char *text = report != NULL ? json_dumps(report, 0) : NULL;
    if (text == NULL)
        abort();
    free(text);
    json_decref(report);
    tell_windows();
    pool_close(pool);
    synthetic_end(&s);
    return 0;
}
