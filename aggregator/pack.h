/*
 * Pack: a window as msgpack, and reading msgpack of our own back with every length checked.
 *
 * For our own files only, which were checked by their CRC: msgpack-c is never given bytes from elsewhere.
 */
#ifndef AGGREGATOR_PACK_H
#define AGGREGATOR_PACK_H

#include <msgpack.h>
#include <stdbool.h>
#include <stddef.h>

#include "aggregator/windows.h"

enum {
    WINDOW_PARTS = 5, /* head, workers, totals, histogram entries of all, cells */
};

struct window_head {
    uint64_t start_ns, end_ns, start_real_ns, end_real_ns, folded;
    struct window_sums sums;
};

/** A whole msgpack text whose outermost object is an array of so many parts. Its bytes are looked over before
 * they are unpacked, so that what is allocated is bounded by their number. */
struct pack_reader {
    msgpack_unpacked unpacked;
    msgpack_object object;
    const msgpack_object *part;
};

/** False if it is not that. To be closed in any case. The parts point into `data`. */
bool pack_open(struct pack_reader *reader, const char *data, size_t bytes, uint32_t parts);
void pack_close(struct pack_reader *reader);

/** A binary of whole items of `each` bytes: where it starts (unaligned), and how many. NULL if it is none. */
const void *pack_bin(const msgpack_object *object, size_t each, size_t *count);

/** Copy a binary of exactly this size. */
bool pack_struct(const msgpack_object *object, void *out, size_t bytes);

void pack_raw(msgpack_packer *packer, const void *data, size_t bytes);

/** All of a window, or what was touched since window_commit. */
void pack_window(msgpack_packer *packer, const struct window *window, bool touched_only);

/** A new window, or NULL if it does not add up. */
struct window *unpack_window(const msgpack_object *object);

/** Put what was packed into a window, in place of what it says of the same things. False if it does not add
 * up: then the window is worth nothing any more. */
bool unpack_into_window(struct window *window, const msgpack_object *object);

#endif
