/*
 * Copy: reading memory of our own process that may vanish or change under us, without a signal and without a
 * fault: the kernel copies and answers EFAULT or a short count.
 *
 * The normal way is one gathering pwritev into a private memfd that is mapped here: 0.9 us, 1.5 us for 32
 * pieces. The pieces are copied in the order in which they are named. Where pwritev or memfd_create is not to
 * be had (seccomp, RLIMIT_FSIZE), process_vm_readv on ourselves does the same at a higher price. So it does
 * where the application could close our descriptor and have its own at that number: between a look at what it
 * is and a write to it there is always a moment.
 *
 * One thread uses a struct copy. After fork the child must call copy_forget and open its own: the memfd is
 * shared with the parent.
 */
#ifndef RUNTIME_CPYTHON_COPY_H
#define RUNTIME_CPYTHON_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum {
    COPY_BYTES = 512 << 10, /* most bytes a gather */
};

struct copy {
    int fd;          /* the scratch memfd, moved to a high number; -1: process_vm_readv is used */
    uint8_t *bytes;  /* COPY_BYTES, where gathered bytes stand, piece after piece */
    dev_t device;    /* identity of the memfd, so that a descriptor the application closed and reused */
    ino_t inode;     /*   is noticed and never written to */
    bool readv;      /* use process_vm_readv */
    bool own_table;  /* set by the user: its thread has a descriptor table of its own, nobody else can close
                        the scratch */
    bool no_scratch; /* set by the user before copy_open, and kept: process_vm_readv or nothing */
};

/** Make the scratch; of `copy` only no_scratch matters before. 0, or -errno with fault_text() when neither
 * way works. Keeps at most one descriptor. */
int copy_open(struct copy *copy);

/** Unmap and close. Safe on a zeroed or closed struct. */
void copy_close(struct copy *copy);

/** In the child of a fork: drop the inherited scratch (closes the descriptor if it is still ours). */
void copy_forget(struct copy *copy);

/**
 * Gather `pieces` (COPY_BYTES in all; a system call for every 1024) in order. Returns the number of bytes
 * that were copied, from the start of the first piece; fewer than asked means that the address behind them
 * could not be read. Returns -errno if nothing can be copied at all (the scratch was closed by the
 * application, or a limit on the size of files came to lie below it: the caller may copy_close and copy_open
 * again).
 */
ssize_t copy_gather(struct copy *copy, const struct iovec *pieces, int count);

/** Copy one piece to `out` (process_vm_readv, else pwritev; what was gathered stays). True if all came. */
bool copy_piece(struct copy *copy, uintptr_t address, void *out, size_t bytes);

#endif
