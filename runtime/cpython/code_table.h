/*
 * Code table, inside: what the files of this folder share about codes beyond code.h.
 */
#ifndef RUNTIME_CPYTHON_CODE_TABLE_H
#define RUNTIME_CPYTHON_CODE_TABLE_H

#include "runtime/cpython/code.h"

/** The address of death number `n`; false if it cannot be told (not written yet, or lapped). */
bool deaths_get(uint64_t n, uintptr_t *address);

/** What a walk needs of a code object, in half a cache line. */
struct code_slot {
    uintptr_t address; /* 0: empty */
    uint32_t entry;    /* index in the table of entries */
    uint32_t frame_bytes;
    uint32_t instructions;
    uint32_t first_traceable;
    uint32_t seen; /* read in which it was last looked up */
    bool proven;   /* it was the same at a second sight */
    uint16_t call; /* the call at which a frame of it was last seen to wait: its code unit + 1; 0: none */
};
_Static_assert(sizeof(struct code_slot) == 32, "two a cache line");

/** As codes_find, for the walk: the slot is valid until the next call. */
struct code_slot *codes_lookup(struct copy *copy, uintptr_t address, bool *full);

/** As codes_lookup for the code object that has an instruction at this address: for a frame that does not
 * tell its code any more. */
struct code_slot *codes_around(struct copy *copy, uintptr_t instruction, bool *full);

/** The entry of a slot. */
struct code *codes_entry(const struct code_slot *slot);

/** Where code_resolve writes the bytes of one code object. */
struct code_room {
    uint8_t *bytes;
    uint32_t used, room;
    bool full;
};

/**
 * Copy the code object at `address` into `code` and its strings and line table into `room`. False if there is
 * none or it could not be read whole. `*full` tells that room was the reason.
 */
bool code_resolve(struct copy *copy, uintptr_t address, struct code *code, struct code_room *room);

/** Where the code object lies that has an instruction at this address, as it seems; 0 if none is found. */
uintptr_t code_around(struct copy *copy, uintptr_t instruction);

/** Is the object at `address` still the one that was resolved into `code`? */
bool code_is_same(struct copy *copy, const struct code *code);

#endif
