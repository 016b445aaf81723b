/* The pool's limits as a worker sees them: see limits.h. */
#include "runtime/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/directory.h"
#include "shm/fault.h"

static struct {
    _Atomic(struct budget_page *) budget;
    _Atomic(const struct rates_page *) rates;
    ino_t budget_inode, rates_inode; /* sampler thread only */
} limits;

/* Map one file if its inode is not `*inode`. Returns 0 with *page NULL if it is the one we have. */
static int map_file(const char *pool, const char *name, size_t bytes, int protection, ino_t *inode,
                    void **page)
{
    char path[DIRECTORY_PATH_MAX];
    struct stat st;
    *page = NULL;
    int rc = directory_join(path, pool, name);
    if (rc != 0)
        return rc;
    int fd = open(path, (protection & PROT_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return fault(errno, "%s", path);
    if (fstat(fd, &st) != 0)
        rc = fault(errno, "%s", path);
    else if (!S_ISREG(st.st_mode) || (size_t)st.st_size < bytes)
        rc = fault(EPROTO, "%s is not what it should be", path);
    else if (st.st_ino != *inode) {
        void *mapped = mmap(NULL, bytes, protection, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED)
            rc = fault(errno, "cannot map %s", path);
        else {
            *page = mapped;
            *inode = st.st_ino;
        }
    }
    close(fd);
    return rc;
}

int limits_refresh(const char *pool)
{
    void *page;
    int rc = map_file(pool, "budget", sizeof(struct budget_page), PROT_READ | PROT_WRITE,
                      &limits.budget_inode, &page);
    if (rc != 0)
        return rc;
    if (page != NULL) {
        struct budget_page *budget = page;
        if (budget->magic != BUDGET_MAGIC || budget->abi != BUDGET_ABI)
            return fault(EPROTO, "%s/budget is of another version", pool);
        atomic_store_explicit(&limits.budget, budget, memory_order_release);
    }
    rc = map_file(pool, "rates", sizeof(struct rates_page), PROT_READ, &limits.rates_inode, &page);
    if (rc != 0)
        return rc;
    if (page != NULL) {
        const struct rates_page *rates = page;
        if (rates->magic != RATES_MAGIC || rates->abi != RATES_ABI)
            return fault(EPROTO, "%s/rates is of another version", pool);
        atomic_store_explicit(&limits.rates, rates, memory_order_release);
    }
    return 0;
}

static const struct rates_page *current_rates(void)
{
    return atomic_load_explicit(&limits.rates, memory_order_acquire);
}

bool limits_alive(uint64_t now_ns)
{
    const struct rates_page *rates = current_rates();
    if (rates == NULL)
        return false;
    uint64_t heartbeat = atomic_load_explicit(&rates->heartbeat_ns, memory_order_relaxed);
    return heartbeat > now_ns || now_ns - heartbeat < LIMITS_STALE_NS;
}

bool limits_passthrough(void)
{
    const struct rates_page *rates = current_rates();
    return rates != NULL && rates_passthrough(rates);
}

bool limits_rates(struct rates *out, uint64_t *generation)
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

enum denial limits_admit(uint32_t stratum, uint64_t now_ns, uint32_t random, uint32_t *probability)
{
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
    if (p <= UINT32_MAX) {
        /* Demand is above the cap. As the cycle's cap is used up, halve p at 1/2, 3/4, 7/8 …, so that late
         * comers still have a chance and the cap is rarely met by force, which would bias against them. */
        double left = 1.0 - budget_used_share(budget, cycle, now.cap);
        for (double mark = 0.5; p > 1 && left <= mark && mark > 0.01; mark /= 2)
            p /= 2;
    }
    if (random >= p)
        return DENIED_LOTTERY;
    if (!budget_take(budget, cycle, now.cap))
        return DENIED_CAP;
    *probability = (uint32_t)(p - 1);
    return DENIALS;
}
