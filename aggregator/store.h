/*
 * Store: files that are whole or not there, and files that grow by whole pieces. All content is checked by
 * length and CRC-32 when it is read back.
 *
 * What is guarded against is the death of the process, at any instant, and damage; not the loss of what the
 * kernel had not written to a disk yet, as with the machine these files lose their meaning.
 */
#ifndef AGGREGATOR_STORE_H
#define AGGREGATOR_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** CRC-32 (IEEE 802.3, reflected polynomial 0xEDB88320) of `bytes` bytes; begin with `crc` 0. */
uint32_t store_crc(uint32_t crc, const void *data, size_t bytes);

/** Write a file under a temporary name and rename it to `path`. 0, or -errno with fault_text(). */
int store_write(const char *path, const void *data, size_t bytes);

/** Read it back (malloc'ed). 0; -ENOENT; -EBADMSG if it is damaged or of another version. */
int store_read(const char *path, char **data, size_t *bytes);

/**
 * A chain: one file, begun by a rename and then appended to. Each piece names the CRC of the one before, so
 * what an earlier attempt left behind the end can never pass for a part of it. A piece is there when all its
 * bytes are; a death in the middle of one leaves a tail that is told from a piece and ignored.
 */
struct store_chain {
    int fd; /* -1: none is open */
    uint64_t bytes;
    uint32_t last; /* CRC of the last piece */
};

/** Put a chain of this one piece in place of whatever stands at `path`. 0, or -errno with fault_text(): then
 * nothing there has changed, and `chain` is as it was. */
int store_chain_begin(struct store_chain *chain, const char *path, const void *data, size_t bytes);

/** Add a piece. 0, or -errno with fault_text(): then it is not there. */
int store_chain_append(struct store_chain *chain, const void *data, size_t bytes);

/** Is there no chain, or was its file removed? Then it must be begun anew. */
bool store_chain_lost(const struct store_chain *chain);

void store_chain_close(struct store_chain *chain);

/** A chain's bytes (malloc'ed), to be walked by store_chain_next. 0, -ENOENT, -EBADMSG, -EFBIG. */
int store_chain_read(const char *path, char **data, size_t *bytes);

struct store_cursor {
    const char *data;
    size_t bytes, at;
    uint32_t last;
};

/** The next whole piece, inside `cursor->data`; false if there is none. A pure function of the bytes. */
bool store_chain_next(struct store_cursor *cursor, const char **piece, size_t *bytes);

/** After the last piece: is what follows more than the torn tail that a death may leave? */
bool store_chain_damaged(const struct store_cursor *cursor);

/**
 * Append one checked piece to a log that is `at` bytes long so far; what stands behind (left by a crash) is
 * cut. Returns 0 and moves `at`, or -errno.
 */
int store_append(const char *path, uint64_t *at, const void *data, size_t bytes);

/** Call `piece` for each piece of a log's first `length` bytes. 0, -EBADMSG, or what `piece` returned. */
int store_replay(const char *path, uint64_t length, int (*piece)(const char *, size_t, void *),
                 void *context);

#endif
