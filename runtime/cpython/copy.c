/* Guarded copies of our own memory: see copy.h. */
#include "runtime/cpython/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/tick_path.h"
#include "shm/fault.h"

enum {
    SINGLE_BYTES = 16 << 10, /* behind the gathered bytes: where copy_piece copies when it must use pwritev */
    SCRATCH_BYTES = COPY_BYTES + SINGLE_BYTES,
    PIECES_A_CALL = 1024,  /* the kernel's limit */
    HIGH_DESCRIPTOR = 900, /* out of the way of applications that close and reuse low numbers */
};

/* Beyond the limit a write brings SIGXFSZ, or is cut short at it. It may come at any time. */
static bool limit_is_too_low(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < SCRATCH_BYTES;
}

/* The memfd as descriptor, or -errno. Sealed, so that nobody can truncate it under our mapping. */
static int make_scratch(void)
{
    if (limit_is_too_low())
        return -EFBIG;
    int fd = memfd_create("pom-scratch", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, SCRATCH_BYTES) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    for (int lowest = HIGH_DESCRIPTOR; lowest >= 32; lowest /= 2) {
        int high = fcntl(fd, F_DUPFD_CLOEXEC, lowest);
        if (high >= 0) {
            close(fd);
            return high;
        }
    }
    return fd;
}

static bool scratch_is_ours(const struct copy *copy)
{
    struct stat now;
    return fstat(copy->fd, &now) == 0 && now.st_ino == copy->inode && now.st_dev == copy->device;
}

static int open_memfd(struct copy *copy)
{
    int fd = make_scratch();
    if (fd < 0)
        return fd;
    struct stat identity;
    void *map = MAP_FAILED;
    if (fstat(fd, &identity) == 0)
        map = mmap(NULL, SCRATCH_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        int error = errno;
        close(fd);
        return -error;
    }
    copy->fd = fd;
    copy->bytes = map;
    copy->device = identity.st_dev;
    copy->inode = identity.st_ino;
    return 0;
}

/* Copy a known word and refuse an unmapped one: the whole promise of this module in two calls. */
static bool works(struct copy *copy)
{
    uint64_t word = UINT64_C(0x706f6d20636f7079);
    struct iovec good = {&word, sizeof word};
    struct iovec bad[2] = {{&word, sizeof word}, {(void *)8, sizeof word}};
    return copy_gather(copy, &good, 1) == (ssize_t)sizeof word &&
           memcmp(copy->bytes, &word, sizeof word) == 0 && copy_gather(copy, bad, 2) == (ssize_t)sizeof word;
}

int copy_open(struct copy *copy)
{
    *copy = (struct copy){.fd = -1, .no_scratch = copy->no_scratch};
    int first = copy->no_scratch ? -EBADF : open_memfd(copy);
    if (first == 0) {
        if (works(copy))
            return 0;
        first = -EPERM;
        copy_close(copy);
    }
    copy->readv = true;
    void *map = mmap(NULL, SCRATCH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return fault(errno, "no memory for copies");
    copy->bytes = map;
    if (works(copy))
        return 0;
    copy_close(copy);
    if (copy->no_scratch)
        return fault(EPERM, "process_vm_readv cannot copy memory here, and descriptors are shared");
    return fault(-first, "neither pwritev into a memfd nor process_vm_readv can copy memory here");
}

void copy_close(struct copy *copy)
{
    if (copy->bytes != NULL)
        munmap(copy->bytes, SCRATCH_BYTES);
    if (copy->bytes != NULL && copy->fd >= 0 && scratch_is_ours(copy))
        close(copy->fd);
    *copy = (struct copy){.fd = -1, .no_scratch = copy->no_scratch};
}

void copy_forget(struct copy *copy)
{
    copy_close(copy);
}

/* The system calls are made bare: the glibc wrappers are cancellation points, and this must never unwind. */
static ssize_t gather_at(struct copy *copy, const struct iovec *pieces, int count, size_t at, size_t bytes)
{
    long got;
    if (copy->readv) {
        struct iovec local = {copy->bytes + at, bytes};
        got = syscall(SYS_process_vm_readv, getpid(), &local, 1UL, pieces, (unsigned long)count, 0UL);
    } else {
        got = syscall(SYS_pwritev, copy->fd, pieces, (unsigned long)count, at, 0UL);
    }
    return got >= 0 ? got : errno == EFAULT ? 0 : -errno;
}

TICK_PATH ssize_t copy_gather(struct copy *copy, const struct iovec *pieces, int count)
{
    if (copy->bytes == NULL || (!copy->readv && !copy->own_table && !scratch_is_ours(copy)))
        return -EBADF;
    size_t done = 0;
    for (int from = 0; from < count; from += PIECES_A_CALL) {
        int now = count - from < PIECES_A_CALL ? count - from : PIECES_A_CALL;
        size_t bytes = 0;
        for (int i = 0; i < now; i++)
            bytes += pieces[from + i].iov_len;
        ssize_t got = gather_at(copy, pieces + from, now, done, bytes);
        if ((got == -EFBIG || (got >= 0 && (size_t)got < bytes)) && !copy->readv && limit_is_too_low())
            return -EFBIG; /* not for what stands at that address */
        if (got < 0)
            return from == 0 ? got : (ssize_t)done;
        done += (size_t)got;
        if ((size_t)got < bytes)
            break;
    }
    return (ssize_t)done;
}

bool copy_piece(struct copy *copy, uintptr_t address, void *out, size_t bytes)
{
    struct iovec local = {out, bytes}, remote = {(void *)address, bytes};
    if (syscall(SYS_process_vm_readv, getpid(), &local, 1UL, &remote, 1UL, 0UL) == (long)bytes)
        return true;
    if (errno == EFAULT || copy->readv || copy->bytes == NULL || !scratch_is_ours(copy) || limit_is_too_low())
        return false;
    for (size_t done = 0; done < bytes;) {
        size_t now = bytes - done < SINGLE_BYTES ? bytes - done : SINGLE_BYTES;
        if (syscall(SYS_pwrite64, copy->fd, address + done, now, (unsigned long)COPY_BYTES) != (long)now)
            return false;
        memcpy((uint8_t *)out + done, copy->bytes + COPY_BYTES, now);
        done += now;
    }
    return true;
}
