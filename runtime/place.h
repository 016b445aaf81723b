/*
 * Place: on which CPU the sampler thread runs: on that of the thread that it samples.
 *
 * Left to itself, the kernel puts a thread that wakes on an idle CPU. After some milliseconds that has to be
 * woken from its idle state, and every line that is read comes from another CPU's cache, so a tick costs
 * twice as much as on the CPU of the thread that is read. There that thread stands still while it is read, so
 * its stack is whole. The price is just that: it stands still for a tick and the timer's interrupt, which on
 * a machine without an idle CPU are taken from somebody anyway. Ticks in quick succession keep an idle CPU
 * awake, so where the interval is short the sampler goes to the thread only if its stacks were torn before.
 *
 * Where a thread runs is told by the word that the kernel keeps for it in its restartable-sequence area
 * (struct rseq of <linux/rseq.h>, registered by glibc 2.35 and later for every thread). It is looked at in
 * one sample of eight, and followed when it has been the same twice. Where the thread changes all the time,
 * or the sampler finds itself late there, it goes back to where the kernel likes, and tries again after a
 * while.
 *
 * Never beyond what others decided: a mask that was found and that we did not set is the limit from then on;
 * only one that names just the CPU where we are cannot be told from ours.
 * And nothing is asked for that might be punished: under a seccomp filter a child tries first, since a filter
 * may answer with the end of the process.
 */
#ifndef RUNTIME_PLACE_H
#define RUNTIME_PLACE_H

#include <stdbool.h>
#include <stdint.h>

struct copy;

/** Once, when the extension is loaded. */
void place_open(void);

/** Address of the word that tells the CPU of the calling thread; 0: nobody keeps it. A few ns. */
uintptr_t place_here(void);

/** Sampler thread, at its start: what is possible here, and a short slice, so that it is not kept waiting. */
void place_begin(void);

/** Sampler thread, at a sample of a thread that was running: its place_here (0: nothing is known of it). */
void place_follow(struct copy *copy, uintptr_t word, uint64_t interval_ns, uint64_t now_ns);

/** Sampler thread, at each stack that was read. */
void place_note_stack(bool torn, uint64_t now_ns);

/** Sampler thread, at each tick: it came `late_ns` after its time. */
void place_note_tick(uint64_t late_ns, uint64_t now_ns);

/** Sampler thread: back to where it may run at all. Before it starts a process, which inherits that. */
void place_leave(void);

#endif
