/*
 * Definition area: an append-only log of names (files, code objects, stack nodes, action types).
 *
 * Ordering contract
 *   - One producer a area. `used` is the one commit: a store-release after the bytes were written. A reader
 *     loads `used` with acquire and may read everything below it; those bytes never change again.
 *   - A definition is published before the first record that uses it is put in a lane; so a reader that loads
 *     the lane's tail first and `used` second finds every definition that the records need.
 *   - Nothing is reclaimed while the segment exists: a restarted aggregator reads the area again from its
 *     start, also for a worker that is dead.
 */
#ifndef SHM_DEFINITIONS_H
#define SHM_DEFINITIONS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "shm/record.h"
#include "shm/testpoint.h"

/** A producer's private view of a definition area. */
struct definitions {
    _Atomic uint64_t *used; /* in the worker's page */
    uint8_t *data;
    uint64_t size;
};

/**
 * Append `head_bytes` of `head` followed by `text_bytes` of `text`, padded to 8 bytes; sets head's size.
 * Returns false if it does not fit (nothing is written then). Only the area's producer may call it.
 */
static inline bool definitions_put(struct definitions *area, void *head, uint32_t head_bytes,
                                   const char *text, uint32_t text_bytes)
{
    uint64_t used = atomic_load_explicit(area->used, memory_order_relaxed);
    uint64_t bytes = ((uint64_t)head_bytes + text_bytes + 7) & ~UINT64_C(7);
    if (bytes > area->size - used)
        return false;
    ((struct record_header *)head)->size = (uint32_t)bytes;
    memcpy(area->data + used, head, head_bytes);
    if (text_bytes != 0)
        memcpy(area->data + used + head_bytes, text, text_bytes);
    TESTPOINT("definition-written"); /* Nobody sees it: it lies behind `used`. */
    atomic_store_explicit(area->used, used + bytes, memory_order_release);
    TESTPOINT("definition-published"); /* The aggregator reads it, though no record may ever use it. */
    return true;
}

#endif
