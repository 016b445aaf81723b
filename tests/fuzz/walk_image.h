/*
 * Walk image: what a reader may read of an interpreter, as bytes: written by record_walk.c from a live one,
 * served to the reader by fuzz_walk.c in the place of the process's memory.
 *
 *   struct walk_image
 *   struct walk_region × regions      where each piece of memory stood
 *   struct walk_step × steps          what happens to it meanwhile
 *   the bytes of all regions, one after the other
 *
 * Addresses are WALK_BASE + a 32-bit offset. Offsets keep what matters of the real ones: what lay in the same
 * MiB or in neighbouring ones still does. The addresses of things that the fuzz program has itself (the type
 * of code objects, the GIL) are the constants below. Whatever is cut off counts as zero or as not there.
 */
#ifndef TESTS_FUZZ_WALK_IMAGE_H
#define TESTS_FUZZ_WALK_IMAGE_H

#include <stdint.h>

#define WALK_BASE UINT64_C(0x500000000000)

enum {
    WALK_REGIONS = 240,
    WALK_STEPS = 32,
    WALK_BYTES = 1 << 18,      /* of all regions */
    WALK_GRANULE_BITS = 20,    /* memory is moved by so many bits' worth */
    WALK_RUNTIME = 0xf0000000, /* offset where _PyRuntime stands */
};

/* Words that stand for the address of something that the fuzz program has. */
enum walk_symbol {
    WALK_CODE_TYPE = 1,
    WALK_UNICODE_TYPE,
    WALK_BYTES_TYPE,
    WALK_FRAME_TYPE,
    WALK_GIL,
    WALK_SYMBOLS,
};
#define WALK_SYMBOL(n) (UINT64_C(0x600000000000) + 0x100 * (uint64_t)(n))

struct walk_image {
    uint8_t regions, steps;
    uint8_t reads; /* of the same thread */
    uint8_t gil;   /* 1: held, 2: by this thread */
    uint32_t tstate;
    uint64_t tstate_id, tstate_native_id;
    uint32_t interpreter;
    uint32_t filled; /* odd: what lies in the same MiB as a region can be read as well, as zeros */
};
_Static_assert(sizeof(struct walk_image) == 32, "as it is stored");

struct walk_region {
    uint32_t at, bytes;
};

/* Before copy number `copy` (a gather counts as one for each of its pieces): */
struct walk_step {
    uint8_t what; /* see fuzz_walk.c */
    uint8_t value;
    uint16_t copy;
    uint32_t at;
};
_Static_assert(sizeof(struct walk_step) == 8, "as it is stored");

#endif
