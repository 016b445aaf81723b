/* Appending to a file: see file.h. */
#include "aggregator/destination/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shm/fault.h"

void file_sink_close(struct file_sink *sink)
{
    if (sink->fd >= 0)
        close(sink->fd);
    sink->fd = -1;
}

static int open_with(const struct file_sink *sink, int access)
{
    /* Without O_NONBLOCK a pipe without a reader would hold the thread. */
    struct open_how how = {
        .flags = (unsigned)(access | O_APPEND | O_CREAT | O_NOCTTY | O_NONBLOCK | O_CLOEXEC),
        .mode = 0644,
        .resolve = sink->no_links ? RESOLVE_NO_SYMLINKS : 0,
    };
    return sink->no_links ? (int)syscall(SYS_openat2, AT_FDCWD, sink->path, &how, sizeof how)
                          : open(sink->path, (int)how.flags, (mode_t)how.mode);
}

/* A writer that was killed in the middle of a line has left a part of it. What comes now is a line of its
 * own.
 */
static void end_broken_line(int fd, const struct stat *st)
{
    char last;
    if (S_ISREG(st->st_mode) && st->st_size > 0 && pread(fd, &last, 1, st->st_size - 1) == 1 &&
        last != '\n') {
        ssize_t ignored = write(fd, "\n", 1); /* where it fails, so will the line */
        (void)ignored;
    }
}

static int open_file(struct file_sink *sink)
{
    int fd = open_with(sink, O_RDWR);
    if (fd < 0 && errno == EACCES)
        fd = open_with(sink, O_WRONLY);
    if (fd < 0)
        return fault(errno, "cannot open %s", sink->path);
    struct stat st;
    if (fstat(fd, &st) != 0 || (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode))) {
        close(fd);
        return fault(EINVAL, "%s is not a regular file", sink->path);
    }
    end_broken_line(fd, &st);
    sink->fd = fd;
    sink->device = st.st_dev;
    sink->inode = st.st_ino;
    return 0;
}

/* Has the file been renamed or removed (log rotation) since it was opened? */
static bool moved(const struct file_sink *sink)
{
    struct stat st;
    return stat(sink->path, &st) != 0 || st.st_dev != sink->device || st.st_ino != sink->inode;
}

int file_sink_write(struct file_sink *sink, const char *bytes, size_t length, size_t *done)
{
    if (sink->fd >= 0 && moved(sink))
        file_sink_close(sink);
    if (sink->fd < 0) {
        int rc = open_file(sink);
        if (rc != 0)
            return rc;
        /* A line of which a part stands in the old file is written whole into the new one. */
        const char *newline = *done == 0 ? NULL : memrchr(bytes, '\n', *done);
        *done = newline == NULL ? 0 : (size_t)(newline - bytes) + 1;
    }
    while (*done < length) {
        ssize_t n = write(sink->fd, bytes + *done, length - *done);
        if (n > 0)
            *done += (size_t)n;
        else if (n == 0 || errno != EINTR)
            return fault(n == 0 ? ENOSPC : errno, "cannot write to %s", sink->path);
    }
    return 0;
}
