/* One line for each kind of trouble: see notice.h. */
#include "runtime/notice.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { FIRST_DESCRIPTOR = 500 }; /* out of the way of what the application opens */

static _Atomic uint32_t private_bits;
static _Atomic uint32_t *bits = &private_bits;
static struct stat stderr_at_start; /* zeros: there was none */

void notice_open(void)
{
    if (bits != &private_bits)
        return;
    if (fstat(STDERR_FILENO, &stderr_at_start) != 0)
        stderr_at_start = (struct stat){0};
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page != MAP_FAILED)
        bits = page;
}

/* Is this the first process of its group to say it? If that cannot be told, it is. */
static bool first_in_group(enum notice kind)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int length = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "profilomatic-notice-%u-%d-%d",
                          (unsigned)geteuid(), (int)getpgrp(), (int)kind);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return true;
    bool taken = bind(fd, (struct sockaddr *)&name,
                      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length)) != 0 &&
                 errno == EADDRINUSE;
    if (!taken && fcntl(fd, F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR) < 0)
        return true; /* keep this one */
    close(fd);
    return !taken;
}

/*
 * Is descriptor 2 still a place for messages? An application may have closed it and opened a file or a
 * connection of its own, which got that number: nothing of ours belongs there. Where stderr was only sent to
 * another place that is a terminal, a log, which is appended to, or what stdout was sent to as well.
 */
static bool stderr_is_for_messages(void)
{
    struct stat now, out;
    int flags = fcntl(STDERR_FILENO, F_GETFL), out_flags = fcntl(STDOUT_FILENO, F_GETFL);
    if (flags < 0 || fstat(STDERR_FILENO, &now) != 0)
        return false;
    if (now.st_ino == stderr_at_start.st_ino && now.st_dev == stderr_at_start.st_dev)
        return true;
    if (S_ISCHR(now.st_mode) || (S_ISREG(now.st_mode) && (flags & O_APPEND)))
        return true;
    return out_flags >= 0 && (out_flags & O_ACCMODE) != O_RDONLY && fstat(STDOUT_FILENO, &out) == 0 &&
           out.st_ino == now.st_ino && out.st_dev == now.st_dev;
}

/* A log that has grown to RLIMIT_FSIZE is no reason for a signal. */
static void write_line(const char *line, size_t bytes)
{
    static const struct timespec at_once;
    sigset_t too_large, before;
    sigemptyset(&too_large);
    sigaddset(&too_large, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &too_large, &before);
    if (write(STDERR_FILENO, line, bytes) < 0 && errno == EFBIG)
        sigtimedwait(&too_large, NULL, &at_once);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void say(enum notice kind, const char *text)
{
    char line[768];
    uint32_t bit = UINT32_C(1) << kind;
    if (!stderr_is_for_messages())
        return;
    if ((atomic_fetch_or_explicit(bits, bit, memory_order_relaxed) & bit) || !first_in_group(kind))
        return;
    int used = snprintf(line, sizeof line, "profilomatic: %s\n", text);
    if (used > (int)sizeof line - 1) {
        used = (int)sizeof line - 1;
        line[used - 1] = '\n';
    }
    write_line(line, (size_t)used); /* if it fails there is nowhere to say it */
}

void notice_once(enum notice kind, const char *format, ...)
{
    char text[720];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    say(kind, text);
}

/* One deferred text: the sampler writes it while `full` is 0 and sets it last; whoever prints it resets it.
 */
static struct {
    _Atomic uint32_t full; /* 0: empty; else the kind + 1 */
    char text[720];
} deferred;

void notice_defer(enum notice kind, const char *format, ...)
{
    if (atomic_load_explicit(&deferred.full, memory_order_acquire) != 0)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(deferred.text, sizeof deferred.text, format, arguments);
    va_end(arguments);
    atomic_store_explicit(&deferred.full, (uint32_t)kind + 1, memory_order_release);
}

void notice_print_deferred(void)
{
    uint32_t full = atomic_load_explicit(&deferred.full, memory_order_acquire);
    if (full == 0)
        return;
    say((enum notice)(full - 1), deferred.text);
    atomic_store_explicit(&deferred.full, 0, memory_order_release);
}
