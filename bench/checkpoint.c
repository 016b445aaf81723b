/*
 * What a checkpoint costs while many profiled actions are open.
 *
 *     build/bench/checkpoint [open actions]
 *
 * Synthetic workers hold so many actions open, each with samples of its own. In a cycle some of them get
 * samples, and the pool's state is committed; the CPU time of that alone is taken. Beside it runs writing and
 * renaming an empty file in the same folder, the least that any commit by rename costs. Prints both, and what
 * was written, for cycles in which ten actions, and in which all of them, got one sample more.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <urcu.h>

#include "aggregator/checkpoint.h"
#include "aggregator/destination/destination.h"
#include "aggregator/guard.h"
#include "aggregator/log.h"
#include "aggregator/store.h"
#include "tests/unit/no_check.h"
#include "tests/unit/synthetic.h"

enum {
    WORKERS = 8,
    STACKS = 64,
    ACTIONS_A_WORKER_MOST = 2000,
    SAMPLES_BEFORE = 10,
    CYCLES = 20,
};

static struct synthetic worker[WORKERS];
static uint64_t serial[WORKERS][ACTIONS_A_WORKER_MOST];
static uint32_t stack[WORKERS][STACKS];
static struct config config;
static struct pool *pool;
static int open_each;

static uint64_t cpu_ns(void)
{
    return clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
}

/* One sample more for the first `count` actions of each worker. */
static void sample(int count)
{
    for (int w = 0; w < WORKERS; w++)
        for (int i = 0; i < count; i++)
            ck_assert(
                synthetic_sample(&worker[w], serial[w][i], stack[w][i % STACKS], STATE_BLOCKED, 10000000));
    pool_round(pool);
}

static void begin(int w)
{
    if (w != 0)
        worker[w] = worker[0];
    synthetic_attach(&worker[w]);
    synthetic_type(&worker[w], 0, "(other)");
    synthetic_type(&worker[w], 1, "/cart");
    synthetic_stacks(&worker[w], 1, STACKS, stack[w]);
}

static double rename_us(void)
{
    char path[DIRECTORY_PATH_MAX];
    ck_assert_int_eq(directory_join(path, worker[0].pool, "empty"), 0);
    uint64_t began = cpu_ns();
    for (int i = 0; i < CYCLES; i++)
        ck_assert_int_eq(store_write(path, "", 0), 0);
    return (double)(cpu_ns() - began) / CYCLES / 1e3;
}

static void measure(const char *what, int count)
{
    uint64_t took = 0, bytes = 0;
    for (int i = 0; i < CYCLES; i++) {
        sample(count);
        uint64_t before = cpu_ns();
        ck_assert_int_eq(checkpoint_write(pool), 0);
        took += cpu_ns() - before;
        bytes += pool->checkpoint_bytes;
    }
    printf("%d open actions, %s got a sample: %.0f us a cycle, %.1f KiB; an empty file renamed: %.0f us\n",
           WORKERS * open_each, what, (double)took / CYCLES / 1e3, (double)bytes / CYCLES / 1024,
           rename_us());
}

static void checkpoint(void)
{
    rcu_register_thread();
    guard_install();
    destinations_start();
    log_open("/dev/null");
    synthetic_directory(&worker[0]);
    for (int w = 0; w < WORKERS; w++)
        begin(w);
    ck_assert_int_eq(pool_open(&pool, worker[0].directory, worker[0].name, &config), 0);
    for (int w = 0; w < WORKERS; w++)
        for (int i = 0; i < open_each; i++) {
            serial[w][i] = synthetic_begin(&worker[w], 1, 0, 1);
            if (i % 64 == 63) {
                pool_round(pool);
                ck_assert_int_eq(checkpoint_write(pool), 0);
            }
        }
    for (int i = 0; i < SAMPLES_BEFORE; i++) {
        sample(open_each);
        ck_assert_int_eq(checkpoint_write(pool), 0);
    }
    measure("ten a worker", open_each < 10 ? open_each : 10);
    measure("each", open_each);
    pool_close(pool);
    for (int w = 1; w < WORKERS; w++)
        segment_unmap(&worker[w].segment);
    synthetic_end(&worker[0]);
    rcu_unregister_thread();
}

int main(int argc, char **argv)
{
    int actions = argc > 1 ? atoi(argv[1]) : 1000;
    open_each = actions / WORKERS;
    if (open_each < 1 || open_each > ACTIONS_A_WORKER_MOST) {
        fprintf(stderr, "usage: checkpoint [open actions, %d to %d]\n", WORKERS,
                WORKERS * ACTIONS_A_WORKER_MOST);
        return 2;
    }
    checkpoint();
    return EXIT_SUCCESS;
}
