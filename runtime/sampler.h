/*
 * Sampler: the one thread of ours in a worker, named pom-sampler. It never takes the GIL, never touches a
 * reference count, blocks all signals, and sleeps on a futex while nothing is being profiled here.
 *
 * While armed it ticks once in each interval I, at a moment drawn uniformly in it (stratified: no aliasing
 * with whatever the application does periodically). A sample stands for I of wall time. At a tick it reads
 * the threads in the slot table (slots.h), and with scope "process" all others too: then it does not wait
 * for actions, and looks at the rates ten times a second where they do not let it sample.
 *
 * Candidates for late admission it admits as they become due: before a tick, or parked until the earliest is.
 */
#ifndef RUNTIME_SAMPLER_H
#define RUNTIME_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

struct segment;

/** Start it for the attached segment. 0, or -errno with fault_text(). GIL held. */
int sampler_start(void);

/** Something was armed at `now_ns`: wake it if it is parked. Any thread; a load when it is running. */
void sampler_wake(uint64_t now_ns);

/** A candidate for late admission is due at `due_ns`: if it is parked for longer, wake it. GIL held. */
void sampler_expect(uint64_t due_ns);

/** No aggregator has shown itself: have the sampler thread look for one, at most once a second. GIL held. */
void sampler_look_for_aggregator(uint64_t now_ns);

/** Scope "process" was asked for, or not any more. GIL held. */
void sampler_watch(bool process);

/**
 * If it is parked with nothing armed, keep it there and return true; then sampler_release. Else it is asked
 * to park as soon as nothing is armed. GIL held.
 */
bool sampler_hold(void);

/** Let it go on, after sampler_hold has returned true. GIL held. */
void sampler_release(void);

/**
 * The segment was replaced; call while held. `former` is unmapped by the sampler thread, when it has let go
 * of what it holds in it (shm/alive.h).
 */
void sampler_begin_segment(const struct segment *former);

/** It ends at its next step; does not wait for it. */
void sampler_stop(void);

/** The child of a fork has no sampler: forget the parent's. */
void sampler_after_fork(void);

#endif
