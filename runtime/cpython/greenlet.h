/*
 * Greenlet: where a greenlet that is switched out stands. A part of its C stack has been moved away then, but
 * its Python frames lie where they lay, on a data stack of its own, and the greenlet holds the innermost one
 * of them. Where in the greenlet that reference is differs between releases of greenlet, and is found out by
 * looking at one whose frame Python itself tells.
 */
#ifndef RUNTIME_CPYTHON_GREENLET_H
#define RUNTIME_CPYTHON_GREENLET_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/cpython/reader.h"

/**
 * Find out where greenlets keep their frame: `out` is one that is switched out at the frame object `frame`,
 * `running` the one that runs. GIL held. False if that cannot be told, or if greenlets of this interpreter
 * (3.10) cannot be read. Once true it always is.
 */
bool greenlet_learn(uintptr_t out, uintptr_t frame, uintptr_t running);

/** What greenlet_read found. */
enum greenlet_read {
    GREENLET_UNKNOWN = -1, /* it was not learnt how to read them */
    GREENLET_RUNS = 0,     /* or has ended, is not there any more, or went on meanwhile */
    GREENLET_WAITS = 1,    /* `out` is its stack */
};

/**
 * Read, with guarded copies, the stack of the greenlet that the weak reference at `reference` refers to.
 * Sampler thread only; as with reader_read, no code of the stack has died.
 */
enum greenlet_read greenlet_read(struct copy *copy, uintptr_t reference, struct stack *out);

#endif
