/* Files that are whole or not there, or grow by whole pieces: see store.h. */
#include "aggregator/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shm/directory.h"
#include "shm/fault.h"
#include "shm/testpoint.h"

enum {
    CHAIN_BYTES_MOST = 256 << 20,
};

static const char magic[8] = "POMstor1";

struct store_head {
    char magic[8];
    uint32_t crc;
    uint32_t after; /* in a chain: the CRC of the piece before */
    uint64_t bytes;
};

static uint32_t table[8][256];

static void make_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = c & 1 ? (c >> 1) ^ UINT32_C(0xEDB88320) : c >> 1;
        table[0][i] = c;
    }
    for (int k = 1; k < 8; k++)
        for (uint32_t i = 0; i < 256; i++)
            table[k][i] = (table[k - 1][i] >> 8) ^ table[0][table[k - 1][i] & 255];
}

uint32_t store_crc(uint32_t crc, const void *data, size_t bytes)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_table);
    const uint8_t *p = data;
    crc = ~crc;
    /* Eight bytes a step ("slicing by 8"); little-endian words are not assumed. */
    for (; bytes >= 8; bytes -= 8, p += 8)
        crc = table[7][(crc ^ p[0]) & 255] ^ table[6][((crc >> 8) ^ p[1]) & 255] ^
              table[5][((crc >> 16) ^ p[2]) & 255] ^ table[4][(crc >> 24) ^ p[3]] ^ table[3][p[4]] ^
              table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    while (bytes-- > 0)
        crc = (crc >> 8) ^ table[0][(crc ^ *p++) & 255];
    return ~crc;
}

static int write_piece(int fd, uint64_t at, uint32_t crc, uint32_t after, const void *data, size_t bytes)
{
    struct store_head head = {.crc = crc, .after = after, .bytes = bytes};
    memcpy(head.magic, magic, sizeof head.magic);
    struct iovec parts[] = {{&head, sizeof head}, {(void *)(uintptr_t)data, bytes}};
    ssize_t n = pwritev(fd, parts, 2, (off_t)at);
    if (n == (ssize_t)(sizeof head + bytes))
        return 0;
    return n < 0 ? -errno : -ENOSPC;
}

/* Leaves the file open: returns its descriptor or -errno. */
static int write_whole(const char *path, uint32_t crc, const void *data, size_t bytes)
{
    char temporary[DIRECTORY_PATH_MAX + 8];
    snprintf(temporary, sizeof temporary, "%s.new", path);
    unlink(temporary); /* left by a crash, or put there to be followed or waited for */
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return fault(errno, "cannot write %s", temporary);
    TESTPOINT("file-made"); /* The next life sees an empty ".new", and removes it before it makes its own. */
    int rc = write_piece(fd, 0, crc, 0, data, bytes);
    TESTPOINT("file-written"); /* Nobody sees it yet: it has not got its name. */
    if (rc == 0 && rename(temporary, path) != 0)
        rc = -errno;
    if (rc != 0) {
        close(fd);
        unlink(temporary);
        return fault(-rc, "cannot write %s", path);
    }
    TESTPOINT("file-renamed"); /* The next life sees the new file in place of the old one. */
    return fd;
}

int store_write(const char *path, const void *data, size_t bytes)
{
    int fd = write_whole(path, store_crc(0, data, bytes), data, bytes);
    if (fd < 0)
        return fd;
    close(fd);
    return 0;
}

/* The piece at `at`; *data is malloc'ed. */
static int read_piece(int fd, const char *path, uint64_t at, uint64_t limit, char **data, size_t *bytes)
{
    struct store_head head;
    if (limit - at < sizeof head || pread(fd, &head, sizeof head, (off_t)at) != (ssize_t)sizeof head ||
        memcmp(head.magic, magic, sizeof magic) != 0 || head.bytes > limit - at - sizeof head)
        return fault(EBADMSG, "%s", path);
    char *content = malloc(head.bytes != 0 ? head.bytes : 1);
    if (content == NULL)
        return fault(ENOMEM, "%s", path);
    if (pread(fd, content, head.bytes, (off_t)(at + sizeof head)) != (ssize_t)head.bytes ||
        store_crc(0, content, head.bytes) != head.crc) {
        free(content);
        return fault(EBADMSG, "%s", path);
    }
    *data = content;
    *bytes = head.bytes;
    return 0;
}

static int open_to_read(const char *path, uint64_t *size)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    if (fd < 0)
        return fault(errno, "%s", path);
    /* The folder may be another uid's: what is not our own writing is not read. */
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid()) {
        close(fd);
        return fault(EBADMSG, "%s is not a file of our own", path);
    }
    *size = (uint64_t)st.st_size;
    return fd;
}

int store_read(const char *path, char **data, size_t *bytes)
{
    uint64_t size;
    int fd = open_to_read(path, &size);
    if (fd < 0)
        return fd;
    int rc = read_piece(fd, path, 0, size, data, bytes);
    close(fd);
    return rc;
}

int store_append(const char *path, uint64_t *at, const void *data, size_t bytes)
{
    /* A log that begins is a new file: what may stand there need not be ours. */
    if (*at == 0)
        unlink(path);
    int flags = O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | (*at == 0 ? O_CREAT | O_EXCL : 0);
    int fd = open(path, flags, 0600);
    if (fd < 0)
        return fault(errno, "cannot write %s", path);
    int rc = ftruncate(fd, (off_t)*at) == 0 ? write_piece(fd, *at, store_crc(0, data, bytes), 0, data, bytes)
                                            : -errno;
    close(fd);
    if (rc != 0)
        return fault(-rc, "cannot write %s", path);
    *at += sizeof(struct store_head) + bytes;
    TESTPOINT("log-appended"); /* The next life sees a longer log; what no checkpoint mentions is cut. */
    return 0;
}

/* ---- chains ------------------------------------------------------------------------------------------- */

int store_chain_begin(struct store_chain *chain, const char *path, const void *data, size_t bytes)
{
    uint32_t crc = store_crc(0, data, bytes);
    int fd = write_whole(path, crc, data, bytes);
    if (fd < 0)
        return fd;
    store_chain_close(chain);
    *chain = (struct store_chain){.fd = fd, .bytes = sizeof(struct store_head) + bytes, .last = crc};
    return 0;
}

int store_chain_append(struct store_chain *chain, const void *data, size_t bytes)
{
    uint32_t crc = store_crc(0, data, bytes);
    int rc = write_piece(chain->fd, chain->bytes, crc, chain->last, data, bytes);
    if (rc != 0) {
        /* Room is given back at once; should that fail too, half a piece is told from a whole one. */
        if (ftruncate(chain->fd, (off_t)chain->bytes) != 0)
            return fault(errno, "cannot cut half a piece off");
        return fault(-rc, "cannot append");
    }
    chain->bytes += sizeof(struct store_head) + bytes;
    chain->last = crc;
    return 0;
}

bool store_chain_lost(const struct store_chain *chain)
{
    struct stat st;
    return chain->fd < 0 || fstat(chain->fd, &st) != 0 || st.st_nlink == 0;
}

void store_chain_close(struct store_chain *chain)
{
    if (chain->fd >= 0)
        close(chain->fd);
    *chain = (struct store_chain){.fd = -1};
}

int store_chain_read(const char *path, char **data, size_t *bytes)
{
    uint64_t size;
    int fd = open_to_read(path, &size);
    if (fd < 0)
        return fd;
    char *content = size <= CHAIN_BYTES_MOST ? malloc(size != 0 ? size : 1) : NULL;
    int rc = 0;
    if (content == NULL)
        rc = fault(size <= CHAIN_BYTES_MOST ? ENOMEM : EFBIG, "%s", path);
    else if (pread(fd, content, size, 0) != (ssize_t)size)
        rc = fault(EBADMSG, "%s", path);
    close(fd);
    if (rc != 0) {
        free(content);
        return rc;
    }
    *data = content;
    *bytes = size;
    return 0;
}

static bool read_head(const struct store_cursor *cursor, struct store_head *head)
{
    if (cursor->bytes - cursor->at < sizeof *head)
        return false;
    memcpy(head, cursor->data + cursor->at, sizeof *head);
    return memcmp(head->magic, magic, sizeof magic) == 0 && head->after == cursor->last;
}

bool store_chain_next(struct store_cursor *cursor, const char **piece, size_t *bytes)
{
    struct store_head head;
    if (!read_head(cursor, &head) || head.bytes > cursor->bytes - cursor->at - sizeof head)
        return false;
    const char *content = cursor->data + cursor->at + sizeof head;
    if (store_crc(0, content, head.bytes) != head.crc)
        return false;
    cursor->at += sizeof head + head.bytes;
    cursor->last = head.crc;
    *piece = content;
    *bytes = head.bytes;
    return true;
}

bool store_chain_damaged(const struct store_cursor *cursor)
{
    struct store_head head;
    size_t left = cursor->bytes - cursor->at;
    if (left < sizeof head)
        return false;
    return !read_head(cursor, &head) || head.bytes <= left - sizeof head;
}

int store_replay(const char *path, uint64_t length, int (*piece)(const char *, size_t, void *), void *context)
{
    if (length == 0)
        return 0;
    uint64_t size;
    int fd = open_to_read(path, &size);
    if (fd < 0)
        return fd;
    int rc = size < length ? fault(EBADMSG, "%s is too short", path) : 0;
    for (uint64_t at = 0; at < length && rc == 0;) {
        char *data;
        size_t bytes;
        rc = read_piece(fd, path, at, length, &data, &bytes);
        if (rc == 0) {
            at += sizeof(struct store_head) + bytes;
            rc = piece(data, bytes, context);
            free(data);
        }
    }
    close(fd);
    return rc;
}
