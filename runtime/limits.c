/* The pool's limits as a worker sees them: see limits.h. */
#include "runtime/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/tick_path.h"
#include "shm/clock.h"
#include "shm/directory.h"
#include "shm/fault.h"

static struct {
    _Atomic(struct budget_page *) budget;
    _Atomic(const struct rates_page *) rates;
    char pool[DIRECTORY_PATH_MAX]; /* whose they are */
    struct stat rates_file;        /* sampler thread: what was mapped as `rates` */
} limits;

/* Map one file of the pool and tell what it is. */
static int map_file(const char *name, size_t bytes, int protection, void **page, struct stat *file)
{
    char path[DIRECTORY_PATH_MAX];
    int rc = directory_join(path, limits.pool, name);
    if (rc != 0)
        return rc;
    int fd = open(path, (protection & PROT_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return fault(errno, "%s", path);
    if (fstat(fd, file) != 0)
        rc = fault(errno, "%s", path);
    else if (!S_ISREG(file->st_mode) || (size_t)file->st_size < bytes)
        rc = fault(EPROTO, "%s is not what it should be", path);
    else {
        void *mapped = mmap(NULL, bytes, protection, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED)
            rc = fault(errno, "cannot map %s", path);
        else
            *page = mapped;
    }
    close(fd);
    return rc;
}

static const struct rates_page *current_rates(void)
{
    return atomic_load_explicit(&limits.rates, memory_order_acquire);
}

void limits_use(const char *pool)
{
    if (strcmp(limits.pool, pool) == 0)
        return;
    atomic_store_explicit(&limits.rates, NULL, memory_order_relaxed);
    atomic_store_explicit(&limits.budget, NULL, memory_order_relaxed);
    snprintf(limits.pool, sizeof limits.pool, "%s", pool);
}

/*
 * Is `fresh` the file that we have already? A file that was made anew may have got the inode again, so its
 * heartbeat is compared too. Where that differs only because it was just stored, a mapping is spent.
 */
static bool is_current(const struct rates_page *fresh, const struct stat *file)
{
    const struct rates_page *rates = current_rates();
    return rates != NULL && file->st_ino == limits.rates_file.st_ino &&
           file->st_dev == limits.rates_file.st_dev &&
           atomic_load(&rates->heartbeat_ns) == atomic_load(&fresh->heartbeat_ns);
}

int limits_refresh(void)
{
    void *rates_page, *budget_page;
    struct stat rates_file, budget_file;
    int rc = map_file("rates", sizeof(struct rates_page), PROT_READ, &rates_page, &rates_file);
    if (rc != 0)
        return rc;
    const struct rates_page *rates = rates_page;
    if (rates->magic != RATES_MAGIC || rates->abi != RATES_ABI)
        rc = fault(EPROTO, "%s/rates is of another version", limits.pool);
    if (rc != 0 || is_current(rates, &rates_file)) {
        munmap(rates_page, sizeof(struct rates_page));
        return rc;
    }
    rc = map_file("budget", sizeof(struct budget_page), PROT_READ | PROT_WRITE, &budget_page, &budget_file);
    if (rc == 0) {
        struct budget_page *budget = budget_page;
        if (budget->magic != BUDGET_MAGIC || budget->abi != BUDGET_ABI) {
            rc = fault(EPROTO, "%s/budget is of another version", limits.pool);
            munmap(budget_page, sizeof(struct budget_page));
        } else {
            /* This one first: who finds the new rates finds the budget that belongs to them. */
            atomic_store_explicit(&limits.budget, budget, memory_order_release);
            atomic_store_explicit(&limits.rates, rates, memory_order_release);
            limits.rates_file = rates_file; /* last: a fork before it costs the child a mapping, no more */
        }
    }
    if (rc != 0)
        munmap(rates_page, sizeof(struct rates_page));
    return rc;
}

bool limits_alive(uint64_t now_ns)
{
    const struct rates_page *rates = current_rates();
    if (rates == NULL)
        return false;
    uint64_t heartbeat = atomic_load_explicit(&rates->heartbeat_ns, memory_order_relaxed);
    return heartbeat > now_ns || now_ns - heartbeat < LIMITS_STALE_NS;
}

TICK_PATH uint64_t limits_silence(uint64_t now_ns)
{
    const struct rates_page *rates = current_rates();
    uint64_t heartbeat =
        rates != NULL ? atomic_load_explicit(&rates->heartbeat_ns, memory_order_relaxed) : now_ns;
    return heartbeat < now_ns ? now_ns - heartbeat : 0;
}

bool limits_passthrough(void)
{
    const struct rates_page *rates = current_rates();
    return rates != NULL && rates_passthrough(rates);
}

TICK_PATH bool limits_rates(struct rates *out, uint64_t *generation)
{
    const struct rates_page *rates = current_rates();
    if (rates == NULL)
        return false;
    uint64_t current = atomic_load_explicit(&rates->generation, memory_order_acquire);
    if (current == *generation && current != 0)
        return true;
    *generation = current; /* what is read now is this one or newer; a newer one is read again */
    return rates_read(rates, out);
}

void limits_ring(void)
{
    char path[DIRECTORY_PATH_MAX];
    struct budget_page *budget = atomic_load_explicit(&limits.budget, memory_order_acquire);
    if (budget != NULL && budget_take_ring(budget) && directory_join(path, limits.pool, "budget") == 0)
        utimensat(AT_FDCWD, path, NULL, AT_SYMLINK_NOFOLLOW);
}

bool limits_detail(uint64_t *interval_ns, uint32_t *granularity)
{
    const struct rates_page *rates = current_rates();
    struct rates_admission now;
    if (rates == NULL || !rates_read_admission(rates, 0, &now))
        return false;
    *interval_ns = now.interval_ns;
    *granularity = now.granularity;
    return true;
}

uint32_t limits_stratum(uint32_t type_hash)
{
    const struct rates_page *rates = current_rates();
    return rates != NULL ? rates_stratum(rates, type_hash) : strata_common(type_hash);
}

/* What a draw says of late admission: the action was admitted with `p` (of 2^32), or denied by the lottery.
 */
static void draw_late(const struct rates_page *rates, uint32_t stratum, uint64_t p, struct limits_draw *draw)
{
    draw->late = rates_read_late(rates, stratum);
    draw->probability = (uint32_t)(p - 1);
    if (draw->late.probability < draw->probability)
        draw->late.probability = draw->probability;
}

enum denial limits_admit(uint32_t stratum, uint64_t now_ns, uint32_t random, struct limits_draw *draw)
{
    draw->candidate = false;
    const struct rates_page *rates = current_rates();
    struct budget_page *budget = atomic_load_explicit(&limits.budget, memory_order_acquire);
    struct rates_admission now;
    if (rates == NULL || budget == NULL || !limits_alive(now_ns) ||
        !rates_read_admission(rates, stratum, &now) || now.cycle_ns == 0)
        return DENIED_NO_RATES;
    if (now.paused)
        return DENIED_PAUSED;

    uint32_t cycle = (uint32_t)(now_ns / now.cycle_ns);
    uint64_t p = (uint64_t)now.probability + 1; /* of 2^32 */
    /* As the cycle's cap is used up, halve p at 1/2, 3/4, 7/8 …, so that late comers still have a chance and
     * the cap is rarely met by force, which would bias against them. Where all are to be admitted demand was
     * below 3/4 of the cap: only what comes beyond is a surprise. */
    double left = 1.0 - budget_used_share(budget, cycle, now.cap);
    for (double mark = p > UINT32_MAX ? 0.25 : 0.5; p > 1 && left <= mark && mark > 0.005; mark /= 2)
        p /= 2;
    if (random >= p) {
        if (random <= rates_late_probability(rates, stratum)) {
            draw_late(rates, stratum, p, draw);
            draw->candidate = draw->late.after_us != 0 && random <= draw->late.probability;
        }
        return DENIED_LOTTERY;
    }
    if (!budget_take(budget, cycle, now.cap))
        return DENIED_CAP;
    draw_late(rates, stratum, p, draw);
    return DENIALS;
}

bool limits_admit_late(uint64_t now_ns)
{
    const struct rates_page *rates = current_rates();
    struct budget_page *budget = atomic_load_explicit(&limits.budget, memory_order_acquire);
    struct rates_admission now;
    return rates != NULL && budget != NULL && limits_alive(now_ns) && rates_read_admission(rates, 0, &now) &&
           now.cycle_ns != 0 && !now.paused &&
           budget_take(budget, (uint32_t)(now_ns / now.cycle_ns), now.cap);
}
