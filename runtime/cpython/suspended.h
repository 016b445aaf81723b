/*
 * Suspended: where a coroutine waits. It has no thread then; its own frame and those of the coroutines that
 * it awaits lie in the coroutine objects, each of which names on top of its stack what it awaits.
 */
#ifndef RUNTIME_CPYTHON_SUSPENDED_H
#define RUNTIME_CPYTHON_SUSPENDED_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/cpython/reader.h"

/**
 * Read, with guarded copies, the stack of the coroutine that the weak reference at `reference` refers to:
 * itself last, what it awaits innermost first. False if it runs, has ended, is not there any more, or went on
 * meanwhile. Sampler thread only; as with reader_read, no code of the stack has died.
 */
bool reader_read_suspended(struct copy *copy, uintptr_t reference, struct stack *out);

#endif
