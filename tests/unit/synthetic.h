/*
 * Synthetic worker: writes a real segment in this process, as a worker would, for tests of the aggregator.
 * Header-only, because each test is a program of one file.
 */
#ifndef TESTS_SYNTHETIC_H
#define TESTS_SYNTHETIC_H

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/clock.h"
#include "shm/directory.h"
#include "shm/segment.h"

struct synthetic {
    char directory[DIRECTORY_PATH_MAX], pool[DIRECTORY_PATH_MAX], name[256];
    struct segment segment;
    uint32_t strings, codes, nodes;
    uint64_t serial;
};

static inline void synthetic_directory(struct synthetic *s)
{
    memset(s, 0, sizeof *s);
    snprintf(s->directory, sizeof s->directory, "/dev/shm/profilomatic-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(s->directory));
    ck_assert_int_eq(directory_pool(s->pool, s->directory, geteuid(), "unit"), 0);
    ck_assert_int_eq(directory_make_pool(s->directory, s->pool), 0);
    snprintf(s->name, sizeof s->name, "%s", strrchr(s->pool, '/') + 1);
}

static inline void synthetic_attach(struct synthetic *s)
{
    char rings[DIRECTORY_PATH_MAX];
    ck_assert_int_eq(directory_join(rings, s->pool, "rings"), 0);
    ck_assert_int_eq(segment_create(&s->segment, rings, "unit", 0x030c01f0, &segment_default_sizes), 0);
    s->strings = s->codes = s->nodes = 0;
}

static inline void synthetic_remove_tree(const char *path)
{
    DIR *directory = opendir(path);
    for (struct dirent *e; directory != NULL && (e = readdir(directory)) != NULL;) {
        char below[DIRECTORY_PATH_MAX];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(below, sizeof below, "%s/%s", path, e->d_name);
        struct stat st;
        if (lstat(below, &st) == 0 && S_ISDIR(st.st_mode))
            synthetic_remove_tree(below);
        else
            unlink(below);
    }
    if (directory != NULL)
        closedir(directory);
    rmdir(path);
}

static inline void synthetic_end(struct synthetic *s)
{
    segment_unmap(&s->segment);
    synthetic_remove_tree(s->directory);
}

/** Files in rings/. */
static inline unsigned synthetic_rings(const struct synthetic *s)
{
    char rings[DIRECTORY_PATH_MAX];
    unsigned n = 0;
    ck_assert_int_eq(directory_join(rings, s->pool, "rings"), 0);
    DIR *directory = opendir(rings);
    for (struct dirent *e; directory != NULL && (e = readdir(directory)) != NULL;)
        n += e->d_name[0] != '.';
    if (directory != NULL)
        closedir(directory);
    return n;
}

static inline void synthetic_type(struct synthetic *s, uint32_t type, const char *name)
{
    struct define_type define = {.header.kind = DEFINE_TYPE, .type = type, .length = (uint32_t)strlen(name)};
    ck_assert(definitions_put(&s->segment.definitions[DEFINITIONS_ACTION], &define, sizeof define, name,
                              define.length));
    if (atomic_load(&s->segment.counters->rows_used) <= type)
        atomic_store(&s->segment.counters->rows_used, type + 1);
}

/** A stack node "file:name:line" under `parent`; each gets a file and a code of its own. Returns its id. */
static inline uint32_t synthetic_node(struct synthetic *s, uint32_t parent, const char *file,
                                      const char *name, uint32_t line)
{
    struct definitions *area = &s->segment.definitions[DEFINITIONS_SAMPLER];
    struct define_string string = {.header.kind = DEFINE_STRING, .length = (uint32_t)strlen(file)};
    ck_assert(definitions_put(area, &string, sizeof string, file, string.length));
    struct define_code code = {
        .header.kind = DEFINE_CODE, .file = ++s->strings, .first_line = 1, .length = (uint32_t)strlen(name)};
    ck_assert(definitions_put(area, &code, sizeof code, name, code.length));
    struct define_node node = {
        .header.kind = DEFINE_NODE, .parent = parent, .code = ++s->codes, .line = line};
    ck_assert(definitions_put(area, &node, sizeof node, NULL, 0));
    return ++s->nodes;
}

/** `count` stacks, `depth` frames deep, that differ in their leaf. */
static inline void synthetic_stacks(struct synthetic *s, int depth, int count, uint32_t *stack)
{
    uint32_t trunk = 0;
    for (int i = 0; i < depth - 1; i++)
        trunk = synthetic_node(s, trunk, "app/frame.py", "call", (uint32_t)i + 1);
    for (int i = 0; i < count; i++)
        stack[i] = synthetic_node(s, trunk, "app/leaf.py", "work", (uint32_t)i + 1);
}

static inline uint64_t synthetic_begin(struct synthetic *s, uint32_t type, uint64_t parent, double p)
{
    struct record_begin begin = {
        .header = {sizeof begin, RECORD_BEGIN, 0},
        .time_ns = clock_monotonic_ns(),
        .action_serial = ++s->serial,
        .parent_serial = parent,
        .thread = 1,
        .type = type,
        .probability = p >= 1 ? UINT32_MAX : (uint32_t)(p * 4294967296.0) - 1,
        .task_uuid = {0x12, 0x34},
        .interval_us = 10000,
        .granularity = GRANULARITY_LINE,
    };
    ck_assert(lane_put(&s->segment.lanes[LANE_ACTION], &begin));
    if (parent == 0)
        counter_add(&s->segment.worker->admitted, 1);
    return s->serial;
}

static inline bool synthetic_sample(struct synthetic *s, uint64_t serial, uint32_t stack,
                                    enum sample_state state, uint64_t wall_ns)
{
    struct record_sample sample = {
        .header = {sizeof sample, RECORD_SAMPLE, 0},
        .time_ns = clock_monotonic_ns(),
        .action_serial = serial,
        .stack = stack,
        .state = state,
        .wall_ns = wall_ns,
        .cpu_ns = state == STATE_CPU ? wall_ns : 0,
    };
    return lane_put(&s->segment.lanes[LANE_SAMPLER], &sample);
}

/** Something that was logged; false if there was no room. */
static inline bool synthetic_message(struct synthetic *s, uint64_t serial, const char *text, size_t length,
                                     unsigned flags, uint32_t depth)
{
    uint64_t words[1024] = {0};
    struct record_message record = {
        .header = {(uint32_t)((sizeof record + length + 7) & ~(size_t)7), RECORD_MESSAGE, (uint16_t)flags},
        .time_ns = clock_monotonic_ns(),
        .action_serial = serial,
        .length = (uint32_t)length,
        .depth = depth,
    };
    ck_assert(record.header.size <= sizeof words);
    memcpy(words, &record, sizeof record);
    memcpy((char *)words + sizeof record, text, length);
    return lane_put(&s->segment.lanes[LANE_ACTION], words);
}

static inline void synthetic_finish(struct synthetic *s, uint64_t serial, uint32_t type, uint64_t latency_ns,
                                    bool error)
{
    struct record_end end = {
        .header = {sizeof end, RECORD_END, error ? END_ERROR : 0},
        .time_ns = clock_monotonic_ns(),
        .action_serial = serial,
        .latency_ns = latency_ns,
        .type = type,
    };
    ck_assert(lane_put(&s->segment.lanes[LANE_ACTION], &end));
    counters_add(s->segment.counters, type, latency_ns, error, DENIALS);
}

/** An action that was not profiled. */
static inline void synthetic_count(struct synthetic *s, uint32_t type, uint64_t latency_ns)
{
    counters_add(s->segment.counters, type, latency_ns, false, DENIED_LOTTERY);
    counter_add(&s->segment.worker->denied[DENIED_LOTTERY], 1);
}

static inline void synthetic_close_segment(struct synthetic *s)
{
    atomic_store_explicit(&s->segment.worker->state, SEGMENT_CLOSED, memory_order_release);
}

#endif
