/* What a thread waits for in the kernel: see kernel_wait.h. */
#include "runtime/kernel_wait.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/tick_path.h"

enum {
    TEXT = 160, /* a number, six arguments, two addresses */
};

static struct {
    bool keep;
    struct {
        int32_t tid; /* 0: none */
        int fd;
    } file[KERNEL_WAIT_FILES];
} kept;

void kernel_wait_keep_open(bool keep)
{
    for (int i = 0; i < KERNEL_WAIT_FILES; i++) {
        if (kept.file[i].tid != 0)
            close(kept.file[i].fd);
        kept.file[i].tid = 0;
    }
    kept.keep = keep;
}

void kernel_wait_after_fork(void)
{
    memset(&kept, 0, sizeof kept);
}

static int open_file(int32_t tid)
{
    char path[48] = "/proc/self/task/", digits[12];
    size_t used = strlen(path);
    int n = 0;
    for (uint32_t rest = (uint32_t)tid; rest != 0 && n < (int)sizeof digits; rest /= 10)
        digits[n++] = (char)('0' + rest % 10);
    while (n > 0)
        path[used++] = digits[--n];
    memcpy(path + used, "/syscall", sizeof "/syscall");
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* Bytes of the thread's file in `text`; 0 or less if it cannot be read. */
static ssize_t read_file(int32_t tid, char *text)
{
    const int at = (int)((uint32_t)tid % KERNEL_WAIT_FILES);
    if (kept.file[at].tid == tid) {
        ssize_t got = pread(kept.file[at].fd, text, TEXT - 1, 0);
        if (got > 0)
            return got;
    }
    if (kept.file[at].tid != 0)
        close(kept.file[at].fd);
    kept.file[at].tid = 0;
    int fd = open_file(tid);
    if (fd < 0)
        return -1;
    ssize_t got = pread(fd, text, TEXT - 1, 0);
    if (kept.keep && got > 0) {
        kept.file[at].tid = tid;
        kept.file[at].fd = fd;
    } else {
        close(fd);
    }
    return got;
}

TICK_PATH enum kernel_wait kernel_wait_of(int32_t tid, uintptr_t *word)
{
    char text[TEXT], *rest;
    ssize_t got = read_file(tid, text);
    if (got <= 0)
        return KERNEL_WAIT_UNKNOWN;
    text[got] = 0;
    if (strncmp(text, "running", 7) == 0)
        return KERNEL_WAIT_NONE;
    if (strtol(text, &rest, 10) != SYS_futex)
        return KERNEL_WAIT_OTHER;
    *word = strtoul(rest, NULL, 16);
    return KERNEL_WAIT_FUTEX;
}
