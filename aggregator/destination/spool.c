/* Batches on disk: see spool.h. */
#include "aggregator/destination/spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/clock.h"
#include "shm/directory.h"
#include "shm/fault.h"
#include "shm/testpoint.h"

enum {
    NAME_BYTES = 128,
    BATCH_BYTES_MOST = 16 << 20, /* no batch of ours is longer: a file that is was not made by us */
};

static const char temporary[] = ".new", lock_name[] = "lock";

void spool_init(struct spool *spool)
{
    *spool = (struct spool){.folder = -1, .lock = -1};
}

static void entry_name(const struct spool_entry *entry, char out[NAME_BYTES])
{
    snprintf(out, NAME_BYTES, "%012" PRIu64 "-%013" PRIu64 "-%" PRIu64 "-%s", entry->number, entry->real_ms,
             entry->lines, entry->key);
}

/* Is it the name that we would give? */
static bool parse_name(const char *name, struct spool_entry *entry)
{
    char again[NAME_BYTES];
    *entry = (struct spool_entry){0};
    if (sscanf(name, "%" SCNu64 "-%" SCNu64 "-%" SCNu64 "-%32[0-9a-f]", &entry->number, &entry->real_ms,
               &entry->lines, entry->key) != 4)
        return false;
    entry_name(entry, again);
    return strcmp(name, again) == 0 && strlen(entry->key) == SPOOL_KEY_BYTES - 1;
}

/* ---- the list ---------------------------------------------------------------------------------------- */

static int reserve(struct spool *spool)
{
    if (spool->first != 0 && spool->end == spool->room) {
        memmove(spool->entry, spool->entry + spool->first, spool_count(spool) * sizeof *spool->entry);
        spool->end -= spool->first;
        spool->first = 0;
    }
    if (spool->end < spool->room)
        return 0;
    uint32_t room = spool->room == 0 ? 16 : spool->room * 2;
    struct spool_entry *grown = realloc(spool->entry, room * sizeof *grown);
    if (grown == NULL)
        return fault(ENOMEM, "spool");
    spool->entry = grown;
    spool->room = room;
    return 0;
}

static void append(struct spool *spool, const struct spool_entry *entry)
{
    spool->entry[spool->end++] = *entry;
    spool->bytes += entry->bytes;
    spool->lines += entry->lines;
}

/* Take the i-th out of the list and off the disk. Returns its lines. */
static uint64_t remove_at(struct spool *spool, uint32_t i)
{
    char name[NAME_BYTES];
    struct spool_entry gone = spool->entry[i];
    entry_name(&gone, name);
    unlinkat(spool->folder, name, 0);
    TESTPOINT("spool-removed"); /* The next life does not know it: it is through, or given up. */
    if (i == spool->first)
        spool->first++;
    else {
        memmove(&spool->entry[i], &spool->entry[i + 1], (spool->end - i - 1) * sizeof *spool->entry);
        spool->end--;
    }
    spool->bytes -= gone.bytes;
    spool->lines -= gone.lines;
    return gone.lines;
}

static int by_number(const void *a, const void *b)
{
    const struct spool_entry *x = a, *y = b;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* ---- the folder -------------------------------------------------------------------------------------- */

/* A folder that is ours alone: /var/tmp is everybody's, and what somebody else put there is not to be used.
 */
static int open_own_folder(int at, const char *path)
{
    if (mkdirat(at, path, 0700) != 0 && errno != EEXIST)
        return fault(errno, "cannot make the spool %s", path);
    int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (fd < 0)
        return fault(errno, "cannot open the spool %s", path);
    if (fstat(fd, &st) != 0 || st.st_uid != geteuid() || (st.st_mode & 022) != 0) {
        close(fd);
        return fault(EPERM, "the spool %s belongs to somebody else", path);
    }
    return fd;
}

static int open_root(void)
{
    char path[DIRECTORY_PATH_MAX];
    const char *named = getenv("PROFILOMATIC_SPOOL");
    if (named != NULL && *named != '\0')
        snprintf(path, sizeof path, "%s", named);
    else
        snprintf(path, sizeof path, "/var/tmp/profilomatic-%lu", (unsigned long)geteuid());
    return open_own_folder(AT_FDCWD, path);
}

/* The first of name, name.1, … that nobody else uses. */
static int open_folder(struct spool *spool, int root, const char *name)
{
    for (int i = 0; i < SPOOL_FOLDERS_MOST; i++) {
        char own[NAME_BYTES];
        snprintf(own, sizeof own, i == 0 ? "%s" : "%s.%d", name, i);
        int folder = open_own_folder(root, own);
        if (folder < 0)
            return folder;
        int lock = openat(folder, lock_name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) == 0) {
            spool->folder = folder;
            spool->lock = lock;
            return 0;
        }
        int error = errno;
        close(folder);
        if (lock >= 0)
            close(lock);
        if (error != EWOULDBLOCK)
            return fault(error, "cannot lock the spool %s", own);
    }
    return fault(EBUSY, "%d others use the spool %s", SPOOL_FOLDERS_MOST, name);
}

static int list_folder(struct spool *spool)
{
    int fd = openat(spool->folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (directory == NULL) {
        int rc = fault(errno, "cannot read the spool");
        if (fd >= 0)
            close(fd);
        return rc;
    }
    int rc = 0;
    for (struct dirent *at; rc == 0 && (at = readdir(directory)) != NULL;) {
        struct spool_entry entry;
        struct stat st;
        if (strcmp(at->d_name, temporary) == 0)
            unlinkat(spool->folder, at->d_name, 0);
        if (!parse_name(at->d_name, &entry) ||
            fstatat(spool->folder, at->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode))
            continue;
        entry.bytes = (uint64_t)st.st_size;
        rc = reserve(spool);
        if (rc == 0)
            append(spool, &entry);
        if (entry.number >= spool->next_number)
            spool->next_number = entry.number + 1;
    }
    closedir(directory);
    if (rc == 0 && spool->end != 0)
        qsort(spool->entry, spool->end, sizeof *spool->entry, by_number);
    return rc;
}

int spool_open(struct spool *spool, const char *name, uint64_t bytes_most, double age_most_s)
{
    spool_init(spool);
    int root = open_root();
    if (root < 0)
        return root;
    int rc = open_folder(spool, root, name);
    close(root);
    if (rc != 0)
        return rc;
    spool->bytes_most = bytes_most;
    spool->age_most_ms = age_most_s < 1e9 ? (uint64_t)(age_most_s * 1000) : UINT64_MAX;
    rc = list_folder(spool);
    if (rc != 0)
        spool_close(spool);
    return rc;
}

void spool_close(struct spool *spool)
{
    if (!spool_is_open(spool))
        return;
    /* The folder stays: somebody else may wait for the lock in it. */
    close(spool->folder);
    close(spool->lock);
    free(spool->entry);
    spool_init(spool);
}

/* ---- batches ----------------------------------------------------------------------------------------- */

static int write_file(const struct spool *spool, const char *name, const char *bytes, size_t length)
{
    int fd = openat(spool->folder, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return fault(errno, "cannot write to the spool");
    size_t done = 0;
    int error = 0;
    while (done < length && error == 0) {
        ssize_t n = write(fd, bytes + done, length - done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || errno != EINTR)
            error = n == 0 ? ENOSPC : errno;
    }
    close(fd);
    TESTPOINT(
        "spool-written"); /* The next life removes it: it has not got its name, and no checkpoint counts. */
    if (error == 0 && renameat(spool->folder, temporary, spool->folder, name) != 0)
        error = errno;
    TESTPOINT("spool-renamed"); /* The next life posts it, perhaps once more, under the same key. */
    if (error == 0)
        return 0;
    unlinkat(spool->folder, temporary, 0);
    return fault(error, "cannot write to the spool");
}

int spool_add(struct spool *spool, const char *bytes, size_t length, uint64_t lines, const char *key,
              bool keep_first, uint64_t *dropped)
{
    *dropped = 0;
    if (length > spool->bytes_most)
        return fault(EFBIG, "a batch of %zu bytes is more than the spool may hold", length);
    int rc = reserve(spool);
    if (rc != 0)
        return rc;
    uint32_t kept = keep_first ? 1 : 0;
    while (spool_count(spool) > kept &&
           (spool->bytes + length > spool->bytes_most || spool_count(spool) >= SPOOL_FILES_MOST))
        *dropped += remove_at(spool, spool->first + kept);
    char name[NAME_BYTES];
    struct spool_entry entry = {
        .number = spool->next_number,
        .real_ms = clock_realtime_ns() / 1000000,
        .lines = lines,
        .bytes = length,
    };
    snprintf(entry.key, sizeof entry.key, "%s", key);
    entry_name(&entry, name);
    rc = write_file(spool, name, bytes, length);
    if (rc != 0)
        return rc;
    spool->next_number++;
    append(spool, &entry);
    return 0;
}

/* 0, -errno, or 1: it is not what was written. */
static int read_file(const struct spool *spool, const struct spool_entry *entry, char **bytes)
{
    char name[NAME_BYTES];
    size_t length = (size_t)entry->bytes;
    entry_name(entry, name);
    if (length == 0 || length > BATCH_BYTES_MOST)
        return 1;
    char *read_in = malloc(length);
    if (read_in == NULL)
        return fault(ENOMEM, "reading the spool");
    int fd = openat(spool->folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : pread(fd, read_in, length, 0);
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (n == (ssize_t)length && read_in[length - 1] == '\n') {
        *bytes = read_in;
        return 0;
    }
    free(read_in);
    if (n < 0 && (error == EMFILE || error == ENFILE || error == ENOMEM || error == EINTR))
        return fault(error, "cannot read the spool");
    return 1;
}

int spool_load_first(struct spool *spool, char **bytes, struct spool_entry *entry, uint64_t *dropped)
{
    uint64_t now_ms = clock_realtime_ns() / 1000000;
    *bytes = NULL;
    *dropped = 0;
    while (spool_count(spool) != 0) {
        const struct spool_entry *first = &spool->entry[spool->first];
        bool old = now_ms > first->real_ms && now_ms - first->real_ms > spool->age_most_ms;
        int rc = old ? 1 : read_file(spool, first, bytes);
        if (rc == 0)
            *entry = *first;
        if (rc != 1)
            return rc;
        *dropped += remove_at(spool, spool->first);
    }
    return 0;
}

void spool_remove_first(struct spool *spool)
{
    remove_at(spool, spool->first);
}

void spool_rotate_first(struct spool *spool)
{
    char from[NAME_BYTES], to[NAME_BYTES];
    struct spool_entry moved = spool->entry[spool->first];
    entry_name(&moved, from);
    moved.number = spool->next_number;
    entry_name(&moved, to);
    if (reserve(spool) != 0 || renameat(spool->folder, from, spool->folder, to) != 0)
        return;
    spool->next_number++;
    spool->first++;
    spool->entry[spool->end++] = moved;
}
