/*
 * Kernel wait: what a thread of this process waits for in the kernel, by /proc/self/task/<tid>/syscall.
 *
 * Opening that file is most of what it costs to ask (2.0 us against 0.6 with warm caches), so the files of
 * the threads that were asked about lately stay open: KERNEL_WAIT_FILES of them at most, and only in a thread
 * whose descriptor table is its own. A file stays that of its thread also when the thread has ended and its
 * number belongs to another; then it says so, and is opened anew.
 *
 * Sampler thread only.
 */
#ifndef RUNTIME_KERNEL_WAIT_H
#define RUNTIME_KERNEL_WAIT_H

#include <stdbool.h>
#include <stdint.h>

enum {
    KERNEL_WAIT_FILES = 64,
};

enum kernel_wait {
    KERNEL_WAIT_UNKNOWN, /* there is no such file, or it may not be read */
    KERNEL_WAIT_NONE,    /* the thread runs, or is ready to */
    KERNEL_WAIT_FUTEX,   /* at *word */
    KERNEL_WAIT_OTHER,
};

/** May files stay open from now on? Those that are are closed in either case. */
void kernel_wait_keep_open(bool keep);

/** What does the thread wait for? About 2 us where its file is open, else 7 us. */
enum kernel_wait kernel_wait_of(int32_t tid, uintptr_t *word);

/** The child of a fork: the files were the parent's. */
void kernel_wait_after_fork(void);

#endif
