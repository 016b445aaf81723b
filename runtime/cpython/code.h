/*
 * Codes: what the sampler knows of code objects, kept honest without holding references.
 *
 * A code object's address is not its identity. The sampler looks a code up by address; the first time it
 * copies what it needs (names, first line, line table, size of a frame) with guarded reads. When the
 * interpreter frees a code object, the hook of deaths.c (in the deallocator of the code type) notes the
 * address in a ring and bumps a counter. The sampler reads the counter before it gathers a stack; after it
 * has resolved the stack it asks whether any code object of that stack died since: then the stack is read
 * again. A code object in use by a running frame cannot die, so nothing is lost by that.
 *
 * Names and line tables stand in one arena of fixed size, in a form of our own (line_table.h). When the table
 * or the arena is nearly full, codes_sweep drops what was not seen lately.
 *
 * One sampler thread owns the table; only codes_watch, codes_deaths and codes_died_since may be called from
 * elsewhere.
 */
#ifndef RUNTIME_CPYTHON_CODE_H
#define RUNTIME_CPYTHON_CODE_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/cpython/copy.h"

enum {
    CODES_MAX = 8192,      /* code objects known at once */
    CODE_NAME_MAX = 512,   /* bytes of UTF-8 kept of a name or a path; longer ones are cut at a character */
    CODES_ARENA = 4 << 20, /* bytes of names and line tables in all */
};

struct code {
    uintptr_t address;
    uintptr_t first_instruction; /* address of co_code_adaptive; 0 where frames always tell their code
                                    (till 3.13) */
    uint32_t instructions;       /* code units */
    uint32_t frame_bytes;     /* bytes a frame of it takes on the data stack; 0: frames are objects (3.10) */
    uint32_t first_traceable; /* code units before it belong to a frame that is still being set up */
    uint32_t first_line;
    uint32_t definition; /* the user's: id in the current segment, 0 = not defined there */
    char *file;          /* UTF-8, zero-terminated, as in co_filename */
    char *name;          /* co_qualname; co_name in 3.10 */
    uint8_t *calls;      /* which instructions may call: calls.h; NULL: not known */
    uint8_t *line_table; /* co_linetable, condensed: line_table.h */
    uint32_t line_table_bytes;
    uint32_t seen;     /* when it was last looked up, in reads */
    uint64_t identity; /* hash of what was copied of the object; it must be the same at the second sight */
};

/** Prepare the table: maps all its memory (fixed, touched as it is used). Idempotent. 0 or -ENOMEM. */
int codes_open(void);

/**
 * Hook the deallocator of code objects (once a process, for all its interpreters; the child of a fork
 * inherits it). GIL held. Idempotent. 0 or -errno with fault_text().
 */
int codes_watch(void);

/** Deaths so far: read it before a gather (acquire). */
uint64_t codes_deaths(void);

/** True if the code object at `address` died after `deaths` was read, or if too many died to tell. */
bool codes_died_since(uint64_t deaths, uintptr_t address);

/** Begin a read: forget the code objects that died until now and return codes_deaths(). Before each gather.
 */
uint64_t codes_begin(void);

/**
 * Find or resolve the code object at `address`. NULL if what stands there is no code object, or if it could
 * not be read, or if the table is full of names (then `*full` is set, if `full` is not NULL). The pointer is
 * valid until codes_sweep.
 */
struct code *codes_find(struct copy *copy, uintptr_t address, bool *full);

/**
 * Give back the room of dead code objects, and of those not seen lately where room is short; call between
 * ticks. Entries that stay keep their address, but their strings may move. Returns how many entries are left.
 */
uint32_t codes_sweep(void);

/** Forget every definition id (a fresh segment). Sampler thread only. */
void codes_forget_definitions(void);

/** The child of a fork: start empty (the table's memory is reused). */
void codes_after_fork(void);

/** Line of the instruction (index in code units) by the code's location table; 0 if it has none. Linear in
 * the table's length: keep the answer by (code, instruction). */
uint32_t code_line(const struct code *code, uint32_t instruction);

#endif
