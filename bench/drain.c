/*
 * What it costs the aggregator to take samples in.
 *
 *     build/bench/drain [workers]
 *
 * Synthetic workers in this process fill their lanes, a pool drains them; the CPU time of draining alone is
 * taken, a sample. Beside it runs the same number of bytes through memcpy, and the same number of bumps of a
 * counter found in a hash table by (type, stack): what no merging can do without. Prints ratios; bar: at most
 * 150 ns a sample. Exit status 1 if it is missed.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <urcu.h>

#include "aggregator/checkpoint.h"
#include "aggregator/destination/destination.h"
#include "aggregator/guard.h"
#include "aggregator/pool.h"
#include "tests/unit/no_check.h"
#include "tests/unit/synthetic.h"

enum {
    WORKERS_MOST = 64,
    STACKS = 256, /* distinct, 32 frames deep */
    DEPTH = 32,
    AN_ACTION = 20, /* samples */
    A_ROUND = 40,   /* actions a worker */
    ROUNDS = 200,
};
#define BAR_NS 150.0

static struct synthetic worker[WORKERS_MOST];
static struct config config;
static int workers;

static uint64_t cpu_ns(void)
{
    return clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
}

static void define(struct synthetic *s, uint32_t stack[STACKS])
{
    synthetic_type(s, 0, "(other)");
    synthetic_type(s, 1, "/cart");
    synthetic_stacks(s, DEPTH, STACKS, stack);
}

/* Returns how many samples were put. */
static unsigned fill(struct synthetic *s, const uint32_t stack[STACKS])
{
    for (int i = 0; i < A_ROUND; i++) {
        uint64_t serial = synthetic_begin(s, 1, 0, 0.5);
        for (int k = 0; k < AN_ACTION; k++)
            ck_assert(synthetic_sample(s, serial, stack[lrand48() % STACKS], STATE_CPU, 10000000));
        synthetic_finish(s, serial, 1, 200000000, false);
    }
    return A_ROUND * AN_ACTION;
}

static double copy_ns(uint64_t samples)
{
    size_t bytes = A_ROUND * AN_ACTION * sizeof(struct record_sample);
    char *from = calloc(1, bytes), *to = calloc(1, bytes);
    uint64_t began = cpu_ns(), done = 0;
    for (; done < samples; done += A_ROUND * AN_ACTION) {
        memcpy(to, from, bytes);
        __asm__ volatile("" ::"r"(to) : "memory");
    }
    uint64_t took = cpu_ns() - began;
    free(from);
    free(to);
    return (double)took / (double)done;
}

static double bump_ns(uint64_t samples)
{
    static struct {
        uint64_t key, count;
    } table[4096];
    uint64_t began = cpu_ns(), seed = 1;
    for (uint64_t i = 0; i < samples; i++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
        uint64_t key = (UINT64_C(1) << 32 | (seed >> 33) % STACKS) + 1;
        uint64_t at = (key * UINT64_C(0x9e3779b97f4a7c15)) >> 52;
        while (table[at].key != 0 && table[at].key != key)
            at = (at + 1) & 4095;
        table[at].key = key;
        table[at].count++;
    }
    __asm__ volatile("" ::"r"(table) : "memory");
    return (double)(cpu_ns() - began) / (double)samples;
}

/* CPU of draining, ns a sample. */
static double drain(void)
{
    static uint32_t stack[WORKERS_MOST][STACKS];
    rcu_register_thread();
    guard_install();
    destinations_start();
    synthetic_directory(&worker[0]);
    for (int i = 0; i < workers; i++) {
        if (i != 0)
            worker[i] = worker[0];
        synthetic_attach(&worker[i]);
        define(&worker[i], stack[i]);
    }
    struct pool *pool;
    ck_assert_int_eq(pool_open(&pool, worker[0].directory, worker[0].name, &config), 0);
    pool_round(pool); /* definitions */
    uint64_t samples = 0, drained = 0, kept = 0;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < workers; i++)
            samples += fill(&worker[i], stack[i]);
        uint64_t began = cpu_ns();
        pool_round(pool);
        pool_round(pool);
        uint64_t between = cpu_ns();
        drained += between - began;
        checkpoint_write(pool);
        kept += cpu_ns() - between;
    }
    double each = (double)drained / (double)samples, bump = bump_ns(samples), copy = copy_ns(samples);
    printf(
        "%d workers, %llu samples: %.0f ns a sample; %.1f x a bump in a hash table (%.1f ns), %.0f x memcpy "
        "of its bytes (%.2f ns)\n",
        workers, (unsigned long long)samples, each, each / bump, bump, each / copy, copy);
    printf("a checkpoint: %.0f us\n", (double)kept / ROUNDS / 1e3);
    pool_close(pool);
    for (int i = 1; i < workers; i++)
        segment_unmap(&worker[i].segment);
    synthetic_end(&worker[0]);
    rcu_unregister_thread();
    return each;
}

int main(int argc, char **argv)
{
    workers = argc > 1 ? atoi(argv[1]) : 8;
    if (workers < 1 || workers > WORKERS_MOST) {
        fprintf(stderr, "usage: drain [workers, 1 to %d]\n", WORKERS_MOST);
        return 2;
    }
    double each = drain();
    printf("bar %.0f ns a sample: %s\n", BAR_NS, each <= BAR_NS ? "ok" : "MISSED");
    return each <= BAR_NS ? EXIT_SUCCESS : EXIT_FAILURE;
}
