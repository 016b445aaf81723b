/*
 * Start-up of the reader, inside: what reader_check prepares while it holds the GIL.
 */
#ifndef RUNTIME_CPYTHON_READER_START_H
#define RUNTIME_CPYTHON_READER_START_H

#include <stdbool.h>

#include "runtime/cpython/copy.h"

/** Note where the GIL is. False if what is there does not say that the calling thread holds it. */
bool reader_find_gil(void);

/** Learn where native thread ids are noted, where the interpreter does not do so (3.10). On a thread that is
 * not the process's first. */
void reader_find_native_id(struct copy *copy);

/** Hear of forks, which change native thread ids. */
void reader_watch_forks(void);

#endif
