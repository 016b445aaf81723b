/*
 * Loaded before everything else (LD_PRELOAD), this counts what threads whose name begins with pom-sampler ask
 * of the C library's allocator and of mmap. A test reads the count with allocations_of_the_sampler().
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What glibc calls its own. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

#pragma GCC visibility push(default)
unsigned long allocations_of_the_sampler(void);

static _Atomic unsigned long count;

static void note(void)
{
    char name[16] = "";
    if (prctl(PR_GET_NAME, name, 0, 0, 0) == 0 && strncmp(name, "pom-sampler", 11) == 0)
        atomic_fetch_add(&count, 1);
}

unsigned long allocations_of_the_sampler(void)
{
    return atomic_load(&count);
}

void *malloc(size_t bytes)
{
    note();
    return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    note();
    return __libc_calloc(n, bytes);
}

void *realloc(void *old, size_t bytes)
{
    note();
    return __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    note();
    return __libc_memalign(alignment, bytes);
}

void *mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    note();
    return (void *)syscall(SYS_mmap, address, bytes, protection, flags, fd, offset);
}
