/* Files that are whole or not there: see store.h. */
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

static const char magic[8] = "POMstor1";

struct store_head {
    char magic[8];
    uint32_t crc;
    uint32_t pad;
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

static int write_piece(int fd, uint64_t at, const void *data, size_t bytes)
{
    struct store_head head = {.crc = store_crc(0, data, bytes), .bytes = bytes};
    memcpy(head.magic, magic, sizeof head.magic);
    struct iovec parts[] = {{&head, sizeof head}, {(void *)(uintptr_t)data, bytes}};
    ssize_t n = pwritev(fd, parts, 2, (off_t)at);
    if (n == (ssize_t)(sizeof head + bytes))
        return 0;
    return n < 0 ? -errno : -ENOSPC;
}

int store_write(const char *path, const void *data, size_t bytes)
{
    char temporary[DIRECTORY_PATH_MAX + 8];
    snprintf(temporary, sizeof temporary, "%s.new", path);
    unlink(temporary); /* left by a crash, or put there to be followed or waited for */
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return fault(errno, "cannot write %s", temporary);
    int rc = write_piece(fd, 0, data, bytes);
    close(fd);
    if (rc == 0 && rename(temporary, path) != 0)
        rc = -errno;
    if (rc != 0) {
        unlink(temporary);
        return fault(-rc, "cannot write %s", path);
    }
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
    int rc = ftruncate(fd, (off_t)*at) == 0 ? write_piece(fd, *at, data, bytes) : -errno;
    close(fd);
    if (rc != 0)
        return fault(-rc, "cannot write %s", path);
    *at += sizeof(struct store_head) + bytes;
    return 0;
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
