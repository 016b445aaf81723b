/* One logging function: see log.h. */
#include "aggregator/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shm/directory.h"
#include "shm/fault.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char file_path[DIRECTORY_PATH_MAX];
static int file = -1;
static uint64_t file_bytes;
static bool ours; /* a plain file: only such a one is rotated or removed */

static int open_file(void)
{
    int fd = open(file_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fault(errno, "cannot write the log %s", file_path);
    struct stat st;
    ours = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    file_bytes = ours ? (uint64_t)st.st_size : 0;
    file = fd;
    return 0;
}

int log_open(const char *path)
{
    if (path == NULL)
        return 0;
    if (snprintf(file_path, sizeof file_path, "%s", path) >= (int)sizeof file_path)
        return fault(ENAMETOOLONG, "log %s", path);
    return open_file();
}

static void rotate(void)
{
    char old[DIRECTORY_PATH_MAX + 8];
    snprintf(old, sizeof old, "%s.old", file_path);
    close(file);
    file = -1;
    rename(file_path, old);
    open_file();
}

void log_line(const char *format, ...)
{
    char line[1024];
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%SZ profilomatic-aggregator: ", &utc);
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(line + n, sizeof line - n - 1, format, arguments);
    va_end(arguments);
    if (written < 0)
        return;
    n += (size_t)written;
    if (n > sizeof line - 2)
        n = sizeof line - 2;
    /* Names of files that anybody made stand in it: they shall not end a line or move a terminal's cursor. */
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
            line[i] = ' ';
    line[n++] = '\n';
    pthread_mutex_lock(&lock);
    if (file >= 0 && ours && file_bytes + n > LOG_FILE_BYTES)
        rotate();
    /* A log that cannot be written is no reason to stop the service. */
    ssize_t done = write(file >= 0 ? file : STDERR_FILENO, line, n);
    if (done > 0)
        file_bytes += (uint64_t)done;
    pthread_mutex_unlock(&lock);
}

void log_close(void)
{
    pthread_mutex_lock(&lock);
    if (file >= 0) {
        struct stat st;
        if (ours && fstat(file, &st) == 0 && st.st_size == 0)
            unlink(file_path);
        close(file);
        file = -1;
    }
    pthread_mutex_unlock(&lock);
}
