/* Life of a pool: see pool.h. */
#include "aggregator/pool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "aggregator/checkpoint.h"
#include "aggregator/deliver.h"
#include "aggregator/log.h"
#include "shm/clock.h"
#include "shm/fault.h"
#include "shm/testpoint.h"

/* ---- limits ------------------------------------------------------------------------------------------- */

static void publish_rates(struct pool *pool, const uint32_t probability[STRATA])
{
    struct rates rates = {
        .interval_ns = pool->limits.interval_ns,
        .cycle_ns = POOL_CYCLE_NS,
        .cap = pool->limits.cap,
        .granularity = pool->limits.granularity,
        .paused = pool->limits.paused,
        .passthrough = pool->limits.passthrough,
        .process = pool->process_scope,
    };
    memcpy(rates.probability, probability, sizeof rates.probability);
    if (pool->told && memcmp(&rates, &pool->published, sizeof rates) == 0)
        return;
    pool->told = pages_publish(&pool->pages, &rates);
    pool->published = rates;
}

/* The file is a new one. */
static void publish_anew(struct pool *pool)
{
    uint32_t probability[STRATA];
    memcpy(probability, pool->published.probability, sizeof probability);
    pool->told = false;
    publish_rates(pool, probability);
    pages_heartbeat(&pool->pages, clock_monotonic_ns());
}

/* An aggregator that takes over goes on with the limits that stand there: demand and cost are what they were.
 */
static bool take_over_limits(struct pool *pool)
{
    struct rates rates = {0};
    if (!pages_published(&pool->pages, &rates) || rates.interval_ns < pool->asked.interval_ns ||
        rates.cap != pool->asked.cap || rates.granularity > pool->asked.granularity || rates.paused ||
        rates.passthrough)
        return false;
    budget_resume(&pool->budget_state, &pool->asked, rates.interval_ns, rates.granularity);
    admission_resume(&pool->admission, rates.probability);
    pool->limits = (struct budget_limits){
        .interval_ns = rates.interval_ns,
        .granularity = rates.granularity,
        .cap = rates.cap,
    };
    publish_rates(pool, rates.probability);
    return true;
}

/* Until the first cycle: what is asked for, everything admitted up to the cap. */
static void first_limits(struct pool *pool)
{
    pool->asked = requests_limits(&pool->requests, pool->config, &pool->process_scope);
    pool->limits = (struct budget_limits){
        .interval_ns = pool->asked.interval_ns,
        .granularity = pool->asked.granularity,
        .cap = pool->asked.cap,
    };
    uint32_t probability[STRATA];
    for (int i = 0; i < STRATA; i++)
        probability[i] = UINT32_MAX;
    publish_rates(pool, probability);
}

/* ---- finding workers and requests -------------------------------------------------------------------- */

const struct worker *pool_worker(struct pool *pool, uint32_t number)
{
    struct worker **recent = &pool->recent[number % POOL_RECENT];
    if (*recent != NULL && (*recent)->number == number)
        return *recent;
    struct worker *worker = pool->workers;
    while (worker != NULL && worker->number != number)
        worker = worker->next;
    if (worker != NULL)
        *recent = worker;
    return worker;
}

static void forget_worker(struct pool *pool, struct worker *worker)
{
    struct worker **recent = &pool->recent[worker->number % POOL_RECENT];
    if (*recent == worker)
        *recent = NULL;
    worker_close(worker);
}

static bool is_known_file(const struct pool *pool, const char *path, const char *name)
{
    for (const struct worker *worker = pool->workers; worker != NULL; worker = worker->next)
        if (strcmp(worker->path, path) == 0)
            return true;
    for (unsigned i = 0; i < pool->refused_count; i++)
        if (strcmp(pool->refused[i], name) == 0)
            return true;
    return false;
}

/* Want of descriptors or memory passes: such a file is looked at again. */
static bool passes(int rc)
{
    return rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM || rc == -EINTR;
}

static void refuse(struct pool *pool, const char *name, int rc)
{
    if (passes(rc)) {
        pool->rescan = true;
        if (!pool->want_told)
            log_line("pool %s: it is tried again: %s", pool->source, fault_text());
        pool->want_told = true;
        return;
    }
    if (pool->refused_count < POOL_REFUSED_MOST)
        log_line("pool %s: %s", pool->source, fault_text());
    if (pool->refused_count < POOL_REFUSED_MOST)
        snprintf(pool->refused[pool->refused_count++], sizeof pool->refused[0], "%s", name);
}

/* What the checkpoint says of a segment that was found again. */
static bool adopt(struct pool *pool, struct worker *worker)
{
    for (struct known_worker **link = &pool->known; *link != NULL; link = &(*link)->next) {
        struct known_worker *known = *link;
        if (memcmp(known->uuid, worker->header.uuid, sizeof known->uuid) != 0)
            continue;
        worker->number = known->number;
        memcpy(worker->position, known->position, sizeof worker->position);
        worker->taken = known->taken;
        worker->cpu_ns = known->cpu_ns;
        /* What was refused once stays refused: what was merged of it until then stands. */
        worker->quarantined = known->quarantined;
        pool->quarantined += known->quarantined;
        *link = known->next;
        free(known);
        return true;
    }
    return false;
}

/* Workers of the checkpoint whose segment is gone: an earlier life had removed it, or its tmpfs is new. */
static void forget_unfound(struct pool *pool)
{
    for (struct known_worker *known = pool->known, *next; known != NULL; known = next) {
        next = known->next;
        merge_forget_worker(&pool->merge, known->number);
        taken_close(&known->taken);
        free(known);
    }
    pool->known = NULL;
}

static void find_worker(struct pool *pool, const char *path, const char *name)
{
    struct worker *worker;
    int rc = worker_open(&worker, path, pool->uid, pool->next_number);
    if (rc == -ENOENT)
        return;
    if (rc != 0) {
        refuse(pool, name, rc);
        return;
    }
    pool->want_told = false;
    if (adopt(pool, worker)) {
        rc = worker->quarantined ? 0 : worker_catch_up(worker);
        if (rc > 0)
            log_line("pool %s: of process %d more was read than any checkpoint holds: that part is lost",
                     pool->source, worker->header.pid);
    } else {
        pool->next_number++;
        rc = worker_begin_at_heads(worker);
    }
    if (rc < 0) {
        refuse(pool, name, rc);
        worker_close(worker);
        return;
    }
    worker->next = pool->workers;
    pool->workers = worker;
    pool->ever++;
    pool->dirty = true;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* A temporary file whose maker died before it had its final name. */
static void drop_stale(const char *path, uid_t uid)
{
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == uid && time(NULL) - st.st_mtime > 60)
        unlink(path);
}

static void scan_rings(struct pool *pool)
{
    DIR *directory = opendir(pool->rings);
    if (directory == NULL) {
        /* What the checkpoint knows must not be taken for gone then, or it would be merged twice. */
        pool->rescan |= passes(-errno);
        return;
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        char path[DIRECTORY_PATH_MAX];
        if (directory_join(path, pool->rings, entry->d_name) != 0)
            continue;
        if (entry->d_name[0] == '.' && ends_with(entry->d_name, ".new"))
            drop_stale(path, pool->uid);
        else if (entry->d_name[0] != '.' && ends_with(entry->d_name, ".ring") &&
                 !is_known_file(pool, path, entry->d_name))
            find_worker(pool, path, entry->d_name);
    }
    closedir(directory);
}

/* Has a folder changed since it was read? */
static bool changed(const char *path, struct timespec *seen, bool force)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return false;
    bool moved = st.st_mtim.tv_sec != seen->tv_sec || st.st_mtim.tv_nsec != seen->tv_nsec;
    /* Times of change are as coarse as a clock tick: one that is fresh may hide a later change. */
    moved |= time(NULL) - st.st_mtim.tv_sec <= 1;
    *seen = st.st_mtim;
    return moved || force;
}

/*
 * The folder was removed, and workers made a new one of that name: what is merged goes on, its files are
 * written anew, and the new workers get pages of their own.
 */
static void renew(struct pool *pool)
{
    if (pages_open(&pool->pages, pool->path, pool->uid) != 0) {
        log_line("pool %s: %s", pool->source, fault_text());
        return;
    }
    struct stat st;
    if (stat(pool->path, &st) == 0)
        pool->folder_inode = st.st_ino;
    checkpoint_renew(pool);
    pool->refused_count = 0;
    publish_anew(pool);
    log_line("pool %s: its folder was removed and made again", pool->source);
}

/* Its user's folder, or one that we made for a guest (guests.h). */
static bool is_ours(const struct stat *st, uid_t uid)
{
    return S_ISDIR(st->st_mode) && (st->st_uid == uid || st->st_uid == geteuid());
}

void pool_scan(struct pool *pool, bool force)
{
    struct stat st;
    if (lstat(pool->path, &st) != 0 || !is_ours(&st, pool->uid))
        return;
    if (st.st_ino != pool->folder_inode) {
        renew(pool);
        force = true;
    }
    force |= pool->rescan || pool->requests.again;
    pool->rescan = false;
    if (changed(pool->folder, &pool->folder_seen, force) &&
        requests_scan(&pool->requests, pool->folder, pool->uid, pool->source, pool->config)) {
        pool->asked = requests_limits(&pool->requests, pool->config, &pool->process_scope);
        /* Lower caps hold at once; the rest comes with the next cycle. */
        if (pool->budget_state.cycles == 0)
            first_limits(pool);
    }
    if (changed(pool->rings, &pool->rings_seen, force)) {
        scan_rings(pool);
        if (pool->known != NULL && !pool->rescan)
            forget_unfound(pool);
    }
}

static void take_requests(struct pool *pool)
{
    pool->asked = requests_limits(&pool->requests, pool->config, &pool->process_scope);
}

void pool_reload(struct pool *pool)
{
    requests_close(&pool->requests);
    requests_scan(&pool->requests, pool->folder, pool->uid, pool->source, pool->config);
    take_requests(pool);
}

static bool found_worker(void *context)
{
    struct pool *pool = context;
    scan_rings(pool);
    return pool->workers != NULL || pool->rescan;
}

void pool_let_go(struct pool *pool, uint64_t now_ns, double linger_s)
{
    if (pool->workers != NULL) {
        pool->alone_since_ns = 0;
        return;
    }
    if (pool->alone_since_ns == 0)
        pool->alone_since_ns = now_ns;
    double alone_s = (double)(now_ns - pool->alone_since_ns) / 1e9;
    if (alone_s < linger_s || alone_s < 1 || pool->requests.count == 0)
        return;
    requests_drop(&pool->requests, pool->folder, alone_s >= POOL_PATIENCE_S, found_worker, pool);
    if (requests_scan(&pool->requests, pool->folder, pool->uid, pool->source, pool->config))
        take_requests(pool);
}

/* ---- opening and closing ----------------------------------------------------------------------------- */

int pool_open(struct pool **out, const char *directory, const char *name, const struct config *config)
{
    struct pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL)
        return fault(ENOMEM, "pool");
    pool->config = config;
    pool->next_number = 1;
    pool->next_window = 1;
    pool->chain.fd = -1;
    struct stat st = {0};
    uint64_t now = clock_monotonic_ns();
    int rc = directory_parse_pool(name, &pool->uid, pool->source);
    names_make_harmless(pool->source);
    if (rc == 0)
        rc = directory_join(pool->path, directory, name);
    if (rc == 0)
        rc = directory_join(pool->rings, pool->path, "rings");
    if (rc == 0)
        rc = directory_join(pool->folder, pool->path, "requests");
    if (rc == 0 && (lstat(pool->path, &st) != 0 || !is_ours(&st, pool->uid)))
        rc = fault(EPERM, "%s is not a folder of uid %lu", pool->path, (unsigned long)pool->uid);
    if (rc == 0)
        rc = merge_open(&pool->merge, now, clock_realtime_ns());
    pool->folder_inode = st.st_ino;
    if (rc == 0)
        rc = pages_open(&pool->pages, pool->path, pool->uid);
    if (rc != 0) {
        pool_close(pool);
        return rc;
    }
    pool->merge.on_root = deliver_root;
    pool->merge.context = pool;
    pool->cycle_at_ns = pool->accounted_at_ns = now;
    if (checkpoint_load(pool) != 0) {
        log_line("pool %s starts afresh: %s", pool->source, fault_text());
        checkpoint_forget(pool);
    }
    requests_scan(&pool->requests, pool->folder, pool->uid, pool->source, config);
    pool->asked = requests_limits(&pool->requests, pool->config, &pool->process_scope);
    if (!take_over_limits(pool))
        first_limits(pool);
    pool_heartbeat(pool, now);
    pool_scan(pool, true);
    *out = pool;
    return 0;
}

void pool_close(struct pool *pool)
{
    while (pool->workers != NULL) {
        struct worker *worker = pool->workers;
        pool->workers = worker->next;
        forget_worker(pool, worker);
    }
    forget_unfound(pool);
    requests_close(&pool->requests);
    store_chain_close(&pool->chain);
    windows_free(&pool->windows);
    merge_close(&pool->merge);
    pages_close(&pool->pages);
    free(pool);
}

void pool_heartbeat(struct pool *pool, uint64_t now_ns)
{
    if (pages_heartbeat(&pool->pages, now_ns))
        return;
    /* Its owner cut the file: workers that look at it now fail by themselves, those to come need not. */
    if (!pool->pages_cut)
        log_line("pool %s: its shared pages were cut and are restored", pool->source);
    pool->pages_cut = true;
    if (pages_open(&pool->pages, pool->path, pool->uid) == 0)
        publish_anew(pool);
}

/* ---- rounds ------------------------------------------------------------------------------------------ */

static void quarantine(struct pool *pool, struct worker *worker)
{
    worker->quarantined = true;
    pool->quarantined++;
    pool->merge.open->sums.quarantined++;
    pool->dirty = true;
    merge_forget_worker(&pool->merge, worker->number);
    log_line("pool %s: process %d is read no more, its segment breaks the rules: %s", pool->source,
             worker->header.pid, fault_text());
}

uint64_t pool_round(struct pool *pool)
{
    uint64_t moved = 0;
    pool->merge.round++;
    pool->attached = 0;
    pool->fill = 0;
    for (struct worker *worker = pool->workers; worker != NULL; worker = worker->next) {
        /* Asked before the drain: what a dead process wrote is then all there. */
        bool alive = worker_alive(worker);
        pool->attached += alive && !worker->closed;
        if (worker->final || worker->quarantined) {
            worker->final |= !alive;
            pool->dirty |= !alive;
            continue;
        }
        int rc = worker_drain(worker, &pool->merge, pool->seen);
        if (rc < 0 && rc != -ENOMEM) {
            quarantine(pool, worker);
            continue;
        }
        moved += rc > 0 ? (uint64_t)rc : 0;
        /* Nothing of it can come late any more. After a while without an aggregator many segments are left by
         * the dead: all their actions, kept until the round is over, would be more than are kept open. */
        if ((!alive || worker->closed) && rc > 0)
            merge_close_worker(&pool->merge, worker->number);
        TESTPOINT("worker-drained"); /* Nobody sees it: it is merged in memory, and drained again by the next
                                        life. */
        if (worker->fill > pool->fill)
            pool->fill = worker->fill;
        if ((!alive || worker->closed) && rc == 0 && ++worker->final_rounds >= POOL_FINAL_ROUNDS) {
            /* Its ends were read in an earlier round, and its sampler's lane was drained since. */
            merge_close_ended(&pool->merge, pool->merge.round);
            merge_forget_worker(&pool->merge, worker->number);
            worker->final = true;
            pool->dirty = true;
        }
    }
    if (pool->merge.actions.ended != 0) {
        merge_close_ended(&pool->merge, pool->merge.round);
        pool->dirty = true;
    }
    pool->dirty |= moved != 0;
    return moved;
}

/* ---- cycles ------------------------------------------------------------------------------------------ */

void pool_account(struct pool *pool, uint64_t aggregator_cpu_ns, uint64_t now_ns)
{
    static long cores;
    if (cores <= 0)
        cores = sysconf(_SC_NPROCESSORS_ONLN) > 0 ? sysconf(_SC_NPROCESSORS_ONLN) : 1;
    struct window_sums *sums = &pool->merge.open->sums;
    uint64_t passed = now_ns - pool->accounted_at_ns, used = 0;
    pool->accounted_at_ns = now_ns;
    for (struct worker *worker = pool->workers; worker != NULL; worker = worker->next) {
        if (worker->final || worker->quarantined)
            continue;
        used += worker_cpu(worker, passed * (uint64_t)cores);
        uint64_t attached = now_ns > worker->attached_ns ? now_ns - worker->attached_ns : 0;
        if (!worker->dead && !worker->closed)
            sums->attached_ns += attached < passed ? attached : passed;
    }
    uint64_t ours = sums->sampler_cpu_ns + sums->hook_cpu_ns - pool->own_cpu_ns;
    pool->own_cpu_ns = sums->sampler_cpu_ns + sums->hook_cpu_ns;
    sums->worker_cpu_ns += used > ours ? used - ours : 0;
    sums->aggregator_cpu_ns += aggregator_cpu_ns;
    pool->merge.open->end_ns = now_ns;
    pool->merge.open->end_real_ns = clock_realtime_ns();
}

static struct budget_measure measure(const struct pool *pool, uint64_t now_ns)
{
    const struct window_sums *sums = &pool->merge.open->sums, *base = &pool->cycle_base;
    double demand = 0;
    for (int i = 0; i < STRATA; i++)
        demand += (double)pool->seen[i];
    return (struct budget_measure){
        .seconds = (double)(now_ns - pool->cycle_at_ns) / 1e9,
        .sampler_cpu = (double)(sums->sampler_cpu_ns - base->sampler_cpu_ns) / 1e9,
        .hook_cpu = (double)(sums->hook_cpu_ns - base->hook_cpu_ns) / 1e9,
        .aggregator_cpu = (double)(sums->aggregator_cpu_ns - base->aggregator_cpu_ns) / 1e9,
        .worker_cpu = (double)(sums->worker_cpu_ns - base->worker_cpu_ns) / 1e9,
        .attached = (double)(sums->attached_ns - base->attached_ns) / 1e9,
        .demand = demand,
        .admitted = (double)(sums->admitted - base->admitted),
    };
}

static void drop_window(uint64_t id, void *context)
{
    struct pool *pool = context;
    if (id != 0 && pool->dropped_windows < POOL_DROPPED_MOST)
        pool->dropped_window[pool->dropped_windows++] = id;
}

static void close_window(struct pool *pool, uint64_t now_ns)
{
    struct window *fresh = window_new(now_ns, clock_realtime_ns());
    if (fresh == NULL || windows_close_one(&pool->windows, pool->merge.open, drop_window, pool) != 0) {
        window_put(fresh); /* the open one goes on until there is memory */
        return;
    }
    deliver_window(pool, pool->merge.open);
    pool->merge.open = fresh;
    memset(&pool->cycle_base, 0, sizeof pool->cycle_base);
    pool->own_cpu_ns = 0;
    merge_fade(&pool->merge);
    pool->whole = true;
    windows_publish(&pool->windows, NULL);
    pool->dirty = true;
    TESTPOINT("window-closed"); /* Reports show it; no file does, and the next life closes it again. */
}

void pool_cycle(struct pool *pool, uint64_t now_ns)
{
    struct budget_measure cost = measure(pool, now_ns);
    pool->cycle_at_ns = now_ns;
    pool->cycle_base = pool->merge.open->sums;
    budget_step(&pool->budget_state, &pool->asked, &cost, &pool->limits);
    uint32_t probability[STRATA];
    admission_step(&pool->admission, pool->seen, pool->limits.cap, probability);
    memset(pool->seen, 0, sizeof pool->seen);
    publish_rates(pool, probability);
    bool damaged;
    if (!pages_audit(&pool->pages, POOL_CYCLE_NS, &damaged))
        pages_open(&pool->pages, pool->path, pool->uid);
    if (damaged)
        log_line("pool %s: the budget word was damaged and is set back", pool->source);
    uint64_t age = now_ns - pool->merge.open->start_ns;
    if (age >= POOL_IDLE_WINDOW_NS || (age >= POOL_WINDOW_NS && !window_idle(pool->merge.open)))
        close_window(pool, now_ns);
}

int pool_publish(struct pool *pool, uint64_t now_ns)
{
    pool->merge.open->end_ns = now_ns;
    pool->merge.open->end_real_ns = clock_realtime_ns();
    return windows_publish(&pool->windows, pool->merge.open);
}

/* ---- the end of workers and of the pool -------------------------------------------------------------- */

void pool_store_heads(struct pool *pool)
{
    for (struct worker *worker = pool->workers; worker != NULL; worker = worker->next)
        worker_store_heads(worker);
}

void pool_after_checkpoint(struct pool *pool)
{
    pool_store_heads(pool);
    TESTPOINT("heads-stored"); /* Workers see room in their lanes; the next life is told of no more than was
                                  committed. */
    for (struct worker **link = &pool->workers; *link != NULL;) {
        struct worker *worker = *link;
        if (!worker->final) {
            link = &worker->next;
            continue;
        }
        unlink(worker->path);
        TESTPOINT("segment-unlinked"); /* The next life does not find it, though its checkpoint knows it. */
        *link = worker->next;
        forget_worker(pool, worker);
    }
}

static void empty_folder(const char *path)
{
    DIR *directory = opendir(path);
    if (directory == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlinkat(dirfd(directory), entry->d_name, 0);
    closedir(directory);
}

void pool_remove(struct pool *pool)
{
    empty_folder(pool->folder);
    rmdir(pool->folder);
    empty_folder(pool->rings);
    rmdir(pool->rings);
    empty_folder(pool->path);
    if (rmdir(pool->path) != 0 && errno != ENOENT)
        log_line("cannot remove %s: %s", pool->path, strerror(errno));
}
