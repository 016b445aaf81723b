/*
 * Guard: touching memory that another process could take away.
 *
 * The pages that worker and aggregator share are mapped. A worker that truncates its file, or a hole punched
 * in it on a full file system, turns a read into SIGBUS. Inside guard_run that ends the call, not the
 * service.
 */
#ifndef AGGREGATOR_GUARD_H
#define AGGREGATOR_GUARD_H

#include <stdbool.h>

/** Install the handler of SIGBUS. Once a process. 0 or -errno. */
int guard_install(void);

/**
 * Call work(context). Returns false if it touched memory that is gone; what it had done until then stands. It
 * must hold no lock and allocate nothing. Not to be nested; one thread at a time.
 */
bool guard_run(void (*work)(void *context), void *context);

#endif
