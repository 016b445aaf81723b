/*
 * Lane: a ring of records from one producer in a worker to the aggregator.
 *
 * Ordering contract
 *   - `tail` is written by the producer only, `head` by the aggregator only. Both are byte counts that never
 *     wrap; tail - head <= size; the byte at position p stands at data[p & (size - 1)].
 *   - The producer's one commit is the store-release of `tail`. It pairs with the consumer's load-acquire of
 *     `tail`: whoever sees the new tail sees the whole record, and every definition published before it.
 *   - The consumer's store-release of `head` pairs with the producer's load-acquire of `head`: bytes before
 *     the head may be overwritten. The aggregator moves `head` only after the checkpoint that contains what
 *     it read has been renamed into place.
 *   - There is no lock, no reserved state and no pointer in shared memory: a SIGKILL at any instruction
 * leaves either the whole record or nothing.
 *   - Full means: the newest record is discarded and counted in `lost_records`; nothing is overwritten.
 *   - A record is contiguous: where it would cross the end of the ring, a RECORD_PADDING fills the rest.
 *
 * A single producer is a thread (the sampler) or a set of threads ordered by a lock outside shared memory
 * (all that hold the GIL). lane_put makes no call that could release that lock.
 */
#ifndef SHM_LANE_H
#define SHM_LANE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "shm/record.h"
#include "shm/testpoint.h"

/** The producer's words of a lane; lies in the worker's page. */
struct lane_tail {
    _Atomic uint64_t tail;
    _Atomic uint64_t lost_records;
    _Atomic uint64_t lost_bytes;
    uint64_t pad[13];
};
_Static_assert(sizeof(struct lane_tail) == 128, "two cache lines, so that lanes do not share one");

/** The consumer's word of a lane; lies in the aggregator's page. */
struct lane_head {
    _Atomic uint64_t head;
    uint64_t pad[15];
};
_Static_assert(sizeof(struct lane_head) == 128, "two cache lines");

/** A producer's private view of a lane. */
struct lane {
    struct lane_tail *tail;
    const struct lane_head *head;
    uint8_t *data;
    uint64_t size; /* bytes, a power of two */
    uint64_t cached_head;
};

/** Is it more than half full? Any thread of its process. */
static inline bool lane_is_filling(const struct lane *lane)
{
    uint64_t head = atomic_load_explicit(&lane->head->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&lane->tail->tail, memory_order_relaxed);
    return head <= tail && tail - head > lane->size / 2;
}

/** Would a record of so many bytes leave a quarter of the lane free? Only its producer may ask. */
static inline bool lane_has_plenty(const struct lane *lane, uint64_t bytes)
{
    uint64_t head = atomic_load_explicit(&lane->head->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&lane->tail->tail, memory_order_relaxed);
    return head <= tail && tail - head + 2 * bytes <= lane->size / 4 * 3; /* twice: it may need padding */
}

/** Longest record a lane of `size` bytes takes. */
static inline uint64_t lane_longest_record(uint64_t size)
{
    return size / 8;
}

/** Count a record of so many bytes as lost. The lane's producer. */
static inline void lane_lose(struct lane *lane, uint64_t bytes)
{
    atomic_store_explicit(&lane->tail->lost_records,
                          atomic_load_explicit(&lane->tail->lost_records, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    TESTPOINT("lane-loss-counted"); /* The aggregator sees the record counted as lost, not its bytes. */
    atomic_store_explicit(&lane->tail->lost_bytes,
                          atomic_load_explicit(&lane->tail->lost_bytes, memory_order_relaxed) + bytes,
                          memory_order_relaxed);
}

/**
 * Append one record (header.size bytes, a multiple of 8). Returns true, or false if there was no room: then
 * it was counted as lost. Only the lane's producer may call it. About 5 ns.
 */
static inline bool lane_put(struct lane *lane, const void *record)
{
    uint64_t bytes = ((const struct record_header *)record)->size;
    uint64_t tail = atomic_load_explicit(&lane->tail->tail, memory_order_relaxed);
    uint64_t offset = tail & (lane->size - 1);
    uint64_t rest = lane->size - offset;
    uint64_t padding = rest < bytes ? rest : 0;

    if (tail + padding + bytes - lane->cached_head > lane->size) {
        lane->cached_head = atomic_load_explicit(&lane->head->head, memory_order_acquire);
        /* A head past the tail is not ours to believe: treat the lane as full. */
        if (lane->cached_head > tail || tail + padding + bytes - lane->cached_head > lane->size) {
            if (lane->cached_head > tail)
                lane->cached_head = tail - lane->size;
            lane_lose(lane, bytes);
            return false;
        }
    }
    if (padding != 0) {
        struct record_header pad = {.size = (uint32_t)padding, .kind = RECORD_PADDING};
        memcpy(lane->data + offset, &pad, sizeof pad);
        offset = 0;
        TESTPOINT("lane-padding-written"); /* Nobody sees it: it lies behind the tail. */
    }
#ifdef POM_BREAK_COMMIT_BEFORE_WRITE
    atomic_store_explicit(&lane->tail->tail, tail + padding + bytes, memory_order_release);
    TESTPOINT("lane-tail-stored");
    memcpy(lane->data + offset, record, bytes);
    return true;
#endif
    memcpy(lane->data + offset, record, bytes);
    TESTPOINT("lane-record-written"); /* Nobody sees it: it lies behind the tail. */
    atomic_store_explicit(&lane->tail->tail, tail + padding + bytes, memory_order_release);
    TESTPOINT("lane-tail-stored"); /* The aggregator sees the record, whole. */
    return true;
}

#endif
