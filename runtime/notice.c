/* One line for each kind of trouble: see notice.h. */
#include "runtime/notice.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

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

void notice_once(enum notice kind, const char *format, ...)
{
    uint32_t bit = UINT32_C(1) << kind;
    if (atomic_fetch_or_explicit(bits, bit, memory_order_relaxed) & bit)
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
