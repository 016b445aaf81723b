/*
 * Start-up of the reader, inside: what reader_check prepares while it holds the GIL.
 */
#ifndef RUNTIME_CPYTHON_READER_START_H
#define RUNTIME_CPYTHON_READER_START_H

#include <stdbool.h>

/** Note where the GIL is. False if what is there does not say that the calling thread holds it. */
bool reader_find_gil(void);

/** Hear of forks, which change native thread ids. */
void reader_watch_forks(void);

#endif
