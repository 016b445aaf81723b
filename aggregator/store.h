/*
 * Store: a file that is whole or not there. Its content is checked by length and CRC-32 when it is read back.
 */
#ifndef AGGREGATOR_STORE_H
#define AGGREGATOR_STORE_H

#include <stddef.h>
#include <stdint.h>

/** CRC-32 (IEEE 802.3, reflected polynomial 0xEDB88320) of `bytes` bytes; begin with `crc` 0. */
uint32_t store_crc(uint32_t crc, const void *data, size_t bytes);

/** Write a file under a temporary name and rename it to `path`. 0, or -errno with fault_text(). */
int store_write(const char *path, const void *data, size_t bytes);

/** Read it back (malloc'ed). 0; -ENOENT; -EBADMSG if it is damaged or of another version. */
int store_read(const char *path, char **data, size_t *bytes);

/**
 * Append one checked piece to a log that is `at` bytes long so far; what stands behind (left by a crash) is
 * cut. Returns 0 and moves `at`, or -errno.
 */
int store_append(const char *path, uint64_t *at, const void *data, size_t bytes);

/** Call `piece` for each piece of a log's first `length` bytes. 0, -EBADMSG, or what `piece` returned. */
int store_replay(const char *path, uint64_t length, int (*piece)(const char *, size_t, void *),
                 void *context);

#endif
