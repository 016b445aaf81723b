/* The pages that workers map: see pages.h. */
#include "aggregator/pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "aggregator/guard.h"
#include "shm/clock.h"
#include "shm/directory.h"
#include "shm/fault.h"
#include "shm/segment.h"
#include "shm/testpoint.h"

enum {
    PAGES_FILE_BYTES = 3 * SEGMENT_PAGE, /* of either */
};
_Static_assert(sizeof(struct rates_page) <= PAGES_FILE_BYTES, "it is in the file");
_Static_assert(sizeof(struct budget_page) <= PAGES_FILE_BYTES, "it is in the file");

struct page_head {
    uint64_t magic;
    uint32_t abi;
    uint32_t pad; /* named, so that it is written as zero */
};

static int write_head(int fd, uint64_t magic, uint32_t abi)
{
    int error = posix_fallocate(fd, 0, PAGES_FILE_BYTES);
    struct page_head head = {.magic = magic, .abi = abi};
    if (error == 0 && pwrite(fd, &head, sizeof head, 0) != (ssize_t)sizeof head)
        error = errno;
    return -error;
}

/* Zeroed, with its head, under its final name. */
static int make(const char *path, uid_t uid, uint64_t magic, uint32_t abi)
{
    char temporary[DIRECTORY_PATH_MAX + 8];
    snprintf(temporary, sizeof temporary, "%s.new", path);
    unlink(temporary);
    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return fault(errno, "cannot make %s", path);
    TESTPOINT("page-made"); /* Workers see no page yet, and profile nothing; the next life removes it. */
    int rc = write_head(fd, magic, abi);
    if (rc == 0 && geteuid() != uid && fchown(fd, uid, (gid_t)-1) != 0)
        rc = -errno;
    if (rc == 0 && rename(temporary, path) != 0)
        rc = -errno;
    close(fd);
    if (rc != 0) {
        unlink(temporary);
        return fault(-rc, "cannot make %s", path);
    }
    TESTPOINT("page-renamed"); /* Workers map it; the next life finds and keeps it. */
    return 0;
}

/* Is it what a cut leaves of the right head: its beginning, and zeros where the file has grown again since?
 */
static bool is_cut(const struct page_head *head, const struct page_head *right)
{
    const uint8_t *is = (const uint8_t *)head, *was = (const uint8_t *)right;
    size_t at = 0;
    while (at < sizeof *head && is[at] == was[at])
        at++;
    while (at < sizeof *head && is[at] == 0)
        at++;
    return at == sizeof *head;
}

/* The head is read, not mapped: the file could be cut in between. */
static int check(int fd, const char *path, uid_t uid, uint64_t magic, uint32_t abi)
{
    struct stat st;
    struct page_head head = {0};
    const struct page_head right = {.magic = magic, .abi = abi};
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_uid != uid || st.st_nlink != 1)
        return fault(EPERM, "%s is no plain file of uid %lu", path, (unsigned long)uid);
    bool whole = st.st_size >= PAGES_FILE_BYTES;
    bool headed = pread(fd, &head, sizeof head, 0) == (ssize_t)sizeof head;
    bool ours = headed && head.magic == magic && head.abi == abi;
    /* Another version's may be shorter. */
    bool others = (whole && !ours) || (headed && head.magic == magic && head.abi != abi);
    if (others && !is_cut(&head, &right))
        return fault(EPROTO, "%s is of another version", path);
    if (whole && ours)
        return 0;
    /* It was cut. Restored in place, because workers have this file mapped. */
    int rc = write_head(fd, magic, abi);
    return rc == 0 ? 0 : fault(-rc, "cannot restore %s", path);
}

/* Map one in place of `*page`. */
static int map(void **page, const char *folder, const char *name, size_t bytes, uid_t uid, uint64_t magic,
               uint32_t abi)
{
    const int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    char path[DIRECTORY_PATH_MAX];
    int rc = directory_join(path, folder, name);
    if (rc != 0)
        return rc;
    int fd = open(path, flags);
    if (fd < 0 && errno == ENOENT) {
        if ((rc = make(path, uid, magic, abi)) != 0)
            return rc;
        fd = open(path, flags);
    }
    if (fd < 0)
        return fault(errno, "cannot open %s", path);
    rc = check(fd, path, uid, magic, abi);
    void *mapped = rc == 0 ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (rc == 0 && mapped == MAP_FAILED)
        rc = fault(errno, "cannot map %s", path);
    close(fd);
    if (rc != 0)
        return rc;
    if (*page != NULL)
        munmap(*page, bytes);
    *page = mapped;
    return 0;
}

int pages_open(struct pages *pages, const char *folder, uid_t uid)
{
    void *budget = pages->budget, *rates = pages->rates;
    int rc = map(&budget, folder, "budget", sizeof *pages->budget, uid, BUDGET_MAGIC, BUDGET_ABI);
    pages->budget = budget;
    if (rc == 0)
        rc = map(&rates, folder, "rates", sizeof *pages->rates, uid, RATES_MAGIC, RATES_ABI);
    pages->rates = rates;
    return rc;
}

void pages_close(struct pages *pages)
{
    if (pages->budget != NULL)
        munmap(pages->budget, sizeof *pages->budget);
    if (pages->rates != NULL)
        munmap(pages->rates, sizeof *pages->rates);
    *pages = (struct pages){0};
}

/* ---- under guard ------------------------------------------------------------------------------------- */

struct touch {
    const struct pages *pages;
    uint64_t number;
    const struct rates *publish;
    struct rates *published;
    bool found;
};

static void store_heartbeat(void *context)
{
    struct touch *touch = context;
    atomic_store_explicit(&touch->pages->rates->heartbeat_ns, touch->number, memory_order_relaxed);
    TESTPOINT("heartbeat-stored"); /* Workers take the aggregator for alive for three more seconds. */
}

bool pages_heartbeat(const struct pages *pages, uint64_t now_ns)
{
    struct touch touch = {.pages = pages, .number = now_ns};
    return guard_run(store_heartbeat, &touch);
}

static void listen(void *context)
{
    const struct touch *touch = context;
    budget_listen(touch->pages->budget);
}

bool pages_listen(const struct pages *pages)
{
    struct touch touch = {.pages = pages};
    return guard_run(listen, &touch);
}

static void write_rates(void *context)
{
    struct touch *touch = context;
    rates_write(touch->pages->rates, touch->publish);
}

bool pages_publish(const struct pages *pages, const struct rates *rates)
{
    struct touch touch = {.pages = pages, .publish = rates};
    return guard_run(write_rates, &touch);
}

static void read_rates(void *context)
{
    struct touch *touch = context;
    touch->found = atomic_load_explicit(&touch->pages->rates->generation, memory_order_relaxed) != 0 &&
                   rates_read(touch->pages->rates, touch->published);
}

bool pages_published(const struct pages *pages, struct rates *rates)
{
    struct touch touch = {.pages = pages, .published = rates};
    return guard_run(read_rates, &touch) && touch.found;
}

static void audit(void *context)
{
    struct touch *touch = context;
    /* In this order: a clock that was read before, while we were held up since, would condemn a sound word.
     */
    uint64_t word = budget_look(touch->pages->budget);
    uint32_t cycle = (uint32_t)(clock_monotonic_ns() / touch->number);
    touch->found = budget_audit(touch->pages->budget, word, cycle);
    if (touch->found)
        TESTPOINT("word-set-back"); /* Workers are denied for the rest of the cycle, and none knows why. */
}

bool pages_audit(const struct pages *pages, uint64_t cycle_ns, bool *damaged)
{
    struct touch touch = {.pages = pages, .number = cycle_ns};
    bool there = guard_run(audit, &touch);
    *damaged = there && touch.found;
    return there;
}

static void read_peak(void *context)
{
    struct touch *touch = context;
    touch->number = atomic_load_explicit(&touch->pages->budget->peak, memory_order_relaxed);
}

uint64_t pages_peak(const struct pages *pages)
{
    struct touch touch = {.pages = pages};
    return guard_run(read_peak, &touch) ? touch.number : 0;
}
