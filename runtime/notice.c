/* One line for each kind of trouble: see notice.h. */
#include "runtime/notice.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { FIRST_DESCRIPTOR = 500 }; /* out of the way of what the application opens */

static _Atomic uint32_t private_bits;
static _Atomic uint32_t *bits = &private_bits;

void notice_open(void)
{
    if (bits != &private_bits)
        return;
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

void notice_once(enum notice kind, const char *format, ...)
{
    uint32_t bit = UINT32_C(1) << kind;
    if ((atomic_fetch_or_explicit(bits, bit, memory_order_relaxed) & bit) || !first_in_group(kind))
        return;
    char line[768];
    int used = snprintf(line, sizeof line, "profilomatic: ");
    va_list arguments;
    va_start(arguments, format);
    used += vsnprintf(line + used, sizeof line - (size_t)used - 1, format, arguments);
    va_end(arguments);
    if (used > (int)sizeof line - 2)
        used = (int)sizeof line - 2;
    line[used++] = '\n';
    if (write(STDERR_FILENO, line, (size_t)used) < 0)
        return; /* nowhere to say it */
}
