/* Starting a private aggregator from inside an application's process, without the application noticing. */
#ifndef RUNTIME_SPAWN_H
#define RUNTIME_SPAWN_H

#include <stdbool.h>

/** True if an aggregator holds the lock of `directory`. */
bool spawn_is_served(const char *directory);

/**
 * Start `program --private --directory D` detached: no SIGCHLD and no child that the application's waitpid
 * could see (clone without an exit signal, then a second one), a session of its own, no inherited descriptor,
 * default signals, umask 077. Where several processes do so at once, the one that gets the directory's lock
 * stays. Returns 0 once it was executed, or -errno with fault_text(). Call from a thread with all signals
 * blocked (the sampler).
 */
int spawn_aggregator(const char *program, const char *directory);

#endif
