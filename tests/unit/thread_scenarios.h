/*
 * What crosses from one thread to another through the shared structures, producer and consumer as threads of
 * one process, so that ThreadSanitizer sees both. One mapping serves both sides: the sanitizer knows memory
 * by its address, and would see nothing in common in two mappings of one file.
 *
 * Each function runs one scenario and returns how much of what it read was wrong. They are compiled twice: as
 * the code is (test_threads.c), and with its ordering taken away (drive_weak_threads.c).
 */
#ifndef TESTS_THREAD_SCENARIOS_H
#define TESTS_THREAD_SCENARIOS_H

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <urcu.h>

#include "aggregator/names.h"
#include "aggregator/windows.h"
#include "shm/budget.h"
#include "shm/clock.h"
#include "shm/definitions.h"
#include "shm/lane.h"
#include "shm/rates.h"

enum {
    SCENARIO_RECORDS = 30000,
    SCENARIO_LANE_BYTES = 4096,
    SCENARIO_AREA_BYTES = SCENARIO_RECORDS * 24,
    SCENARIO_PUBLICATIONS = 2000,
    SCENARIO_CYCLES = 200,
    SCENARIO_CAP = 7,
};

static inline void *scenario_new(size_t bytes)
{
    void *shared = calloc(1, bytes);
    if (shared == NULL)
        abort();
    return shared;
}

static inline void scenario_start(pthread_t *thread, void *(*work)(void *), void *context)
{
    if (pthread_create(thread, NULL, work, context) != 0)
        abort();
}

/* ---- lane and definitions ------------------------------------------------------------------------------ */

/* A segment's parts, as its worker's page, the aggregator's page and the areas hold them. */
struct scenario_segment {
    struct lane_tail tail;
    struct lane_head head;
    _Atomic uint64_t defined;
    _Alignas(64) uint8_t data[SCENARIO_LANE_BYTES];
    _Alignas(64) uint8_t area[SCENARIO_AREA_BYTES];
};

struct scenario_record {
    struct record_header header;
    uint64_t number, again;
};

static inline void *scenario_produce(void *context)
{
    struct scenario_segment *segment = context;
    struct lane lane = {
        .tail = &segment->tail, .head = &segment->head, .data = segment->data, .size = SCENARIO_LANE_BYTES};
    struct definitions area = {.used = &segment->defined, .data = segment->area, .size = SCENARIO_AREA_BYTES};
    for (uint64_t i = 0; i < SCENARIO_RECORDS; i++) {
        struct define_node node = {.header.kind = DEFINE_NODE, .parent = (uint32_t)i, .code = (uint32_t)i};
        struct scenario_record record = {{sizeof record, RECORD_SAMPLE, 0}, i, i};
        if (!definitions_put(&area, &node, sizeof node, NULL, 0))
            abort();
        while (!lane_put(&lane, &record))
            sched_yield();
    }
    return NULL;
}

/* As workers.c does: the tail first, then how far the definitions go, then both up to there. */
static inline unsigned scenario_lane(void)
{
    struct scenario_segment *segment = scenario_new(sizeof *segment);
    pthread_t producer;
    scenario_start(&producer, scenario_produce, segment);
    unsigned wrong = 0;
    uint64_t position = 0;
    for (uint64_t read = 0; read < SCENARIO_RECORDS && wrong < 100;) {
        uint64_t tail = atomic_load_explicit(&segment->tail.tail, memory_order_acquire);
        uint64_t defined = atomic_load_explicit(&segment->defined, memory_order_acquire);
        if (position == tail)
            sched_yield();
        while (position < tail) {
            struct scenario_record record;
            const uint8_t *at = segment->data + (position & (SCENARIO_LANE_BYTES - 1));
            memcpy(&record.header, at, sizeof record.header);
            position += record.header.size;
            if (record.header.kind == RECORD_PADDING && record.header.size != 0)
                continue;
            struct define_node node;
            memcpy(&record, at, sizeof record);
            uint64_t place = record.number * sizeof node;
            bool there = place + sizeof node <= defined;
            if (there)
                memcpy(&node, segment->area + place, sizeof node);
            wrong += record.number != read || record.again != read || !there || node.code != (uint32_t)read;
            read++;
        }
        atomic_store_explicit(&segment->head.head, position, memory_order_release);
    }
    pthread_join(producer, NULL);
    free(segment);
    return wrong;
}

/* ---- budget word --------------------------------------------------------------------------------------- */

struct scenario_budget {
    struct budget_page page;
    _Atomic uint32_t cycle, given[SCENARIO_CYCLES + 1];
};

static inline void *scenario_take(void *context)
{
    struct scenario_budget *shared = context;
    for (uint32_t cycle; (cycle = atomic_load(&shared->cycle)) < SCENARIO_CYCLES;)
        if (budget_take(&shared->page, cycle, SCENARIO_CAP))
            atomic_fetch_add(&shared->given[cycle], 1);
    return NULL;
}

static inline unsigned scenario_budget(void)
{
    struct scenario_budget *shared = scenario_new(sizeof *shared);
    pthread_t worker[3];
    for (int i = 0; i < 3; i++)
        scenario_start(&worker[i], scenario_take, shared);
    for (uint32_t cycle = 0; cycle < SCENARIO_CYCLES; cycle++) {
        usleep(200);
        atomic_store(&shared->cycle, cycle + 1);
    }
    unsigned wrong = 0;
    for (int i = 0; i < 3; i++)
        pthread_join(worker[i], NULL);
    for (uint32_t cycle = 0; cycle < SCENARIO_CYCLES; cycle++)
        wrong += atomic_load(&shared->given[cycle]) > SCENARIO_CAP;
    free(shared);
    return wrong;
}

/* ---- rates --------------------------------------------------------------------------------------------- */

/* The words of a set are atomic, so only what was written before a set was published can tell its order. */
struct scenario_rates {
    struct rates_page page;
    uint64_t before[SCENARIO_PUBLICATIONS + 1];
};

static inline void *scenario_publish_rates(void *context)
{
    struct scenario_rates *shared = context;
    for (uint32_t i = 1; i <= SCENARIO_PUBLICATIONS; i++) {
        struct rates rates = {.interval_ns = i, .cycle_ns = i, .cap = i};
        for (int s = 0; s < STRATA; s++)
            rates.probability[s] = i;
        shared->before[i] = i;
        rates_write(&shared->page, &rates);
    }
    return NULL;
}

static inline unsigned scenario_rates(void)
{
    struct scenario_rates *shared = scenario_new(sizeof *shared);
    pthread_t writer;
    scenario_start(&writer, scenario_publish_rates, shared);
    unsigned wrong = 0;
    struct rates rates = {0};
    struct rates_admission admission;
    while (rates.cap < SCENARIO_PUBLICATIONS && wrong < 100) {
        if (!rates_read(&shared->page, &rates) || rates.cap == 0)
            continue;
        wrong += rates.interval_ns != rates.cap || rates.probability[0] != rates.cap ||
                 rates.probability[STRATA - 1] != rates.cap || shared->before[rates.cap] != rates.cap;
        if (rates_read_admission(&shared->page, 1, &admission))
            wrong += admission.cycle_ns != admission.cap || admission.probability != admission.cap;
    }
    pthread_join(writer, NULL);
    free(shared);
    return wrong;
}

/* ---- windows behind RCU, and the names that they mention -------------------------------------------- */

struct scenario_windows {
    struct windows windows;
    struct names names;
    _Atomic bool done;
    _Atomic unsigned wrong;
};

static inline void *scenario_report(void *context)
{
    struct scenario_windows *shared = context;
    rcu_register_thread();
    while (!atomic_load_explicit(&shared->done, memory_order_relaxed)) {
        struct window_list *list = windows_acquire(&shared->windows);
        for (uint32_t i = 0; list != NULL && i < list->count; i++) {
            const struct window *window = list->window[i];
            const struct type_totals *totals = &window->profile.type[0];
            char expected[16];
            snprintf(expected, sizeof expected, "type-%u", totals->type);
            if (window->sums.samples != totals->count || window->profile.types != 1 ||
                strcmp(names_text(&shared->names, totals->type), expected) != 0)
                atomic_fetch_add_explicit(&shared->wrong, 1, memory_order_relaxed);
        }
        windows_release(list);
    }
    rcu_unregister_thread();
    return NULL;
}

static inline void scenario_ignore(uint64_t id, void *context)
{
    (void)id;
    (void)context;
}

static inline unsigned scenario_windows(void)
{
    struct scenario_windows *shared = scenario_new(sizeof *shared);
    if (names_open(&shared->names, 4096, 1 << 20, "type-0") != 0)
        abort();
    pthread_t reader[2];
    for (int i = 0; i < 2; i++)
        scenario_start(&reader[i], scenario_report, shared);
    for (uint32_t i = 1; i <= SCENARIO_PUBLICATIONS; i++) {
        char name[16];
        snprintf(name, sizeof name, "type-%u", i);
        struct window *window = window_new(i, i);
        struct type_totals *totals =
            window != NULL ? profile_type(&window->profile, names_intern(&shared->names, name, strlen(name)))
                           : NULL;
        if (totals == NULL)
            abort();
        totals->count = window->sums.samples = i;
        /* Two neighbours of the older half would become one, of two types: each is published alone. */
        windows_publish(&shared->windows, window);
        window_put(window);
    }
    atomic_store_explicit(&shared->done, true, memory_order_relaxed);
    for (int i = 0; i < 2; i++)
        pthread_join(reader[i], NULL);
    unsigned wrong = atomic_load(&shared->wrong);
    windows_free(&shared->windows);
    names_close(&shared->names);
    free(shared);
    return wrong;
}

static const struct scenario {
    const char *name;
    unsigned (*run)(void);
} scenarios[] = {
    {"lane", scenario_lane},
    {"budget", scenario_budget},
    {"rates", scenario_rates},
    {"windows", scenario_windows},
};
enum { SCENARIOS = sizeof scenarios / sizeof *scenarios };

#endif
