/* Life of a pool: see pool.h. */
#include "aggregator/pool_parts.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "aggregator/checkpoint.h"
#include "aggregator/deliver.h"
#include "aggregator/log.h"
#include "shm/clock.h"
#include "shm/fault.h"
#include "shm/testpoint.h"

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
    if (rc == 0 && (lstat(pool->path, &st) != 0 || !pool_is_ours(&st, pool->uid)))
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
    /* Windows that were committed, but perhaps not handed over before the end of the life before. */
    if (pool->told_until_ns > now)
        pool->told_until_ns = now; /* of before the machine's last start */
    pool->dirty |= pool->windows.count != 0;
    requests_recover(pool->folder);
    requests_scan(&pool->requests, pool->folder, pool->uid, pool->source, config);
    pool_limits_begin(pool);
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
        pool_forget_worker(pool, worker);
    }
    pool_forget_unfound(pool);
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
        pool_limits_retell(pool);
}

/* ---- its workers -----------------------------------------------------------------------------------------
 */

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

void pool_forget_worker(struct pool *pool, struct worker *worker)
{
    struct worker **recent = &pool->recent[worker->number % POOL_RECENT];
    if (*recent == worker)
        *recent = NULL;
    struct worker **link = pool_named(pool, worker_name(worker));
    while (*link != worker)
        link = &(*link)->next_named;
    *link = worker->next_named;
    worker_close(worker);
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
    pages_listen(&pool->pages);
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
    pool_limits_step(pool, now_ns);
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

/* Such a one stays known: it would be found again, and all that it holds counted once more. */
static bool cannot_remove(struct pool *pool, const struct worker *worker)
{
    if (unlink(worker->path) == 0 || errno == ENOENT)
        return false;
    if (!pool->removal_failed)
        log_line("pool %s: a segment cannot be removed, it is tried again: %s: %s", pool->source,
                 worker->path, strerror(errno));
    return true;
}

static void remove_final(struct pool *pool)
{
    bool failed = false;
    for (struct worker **link = &pool->workers; *link != NULL;) {
        struct worker *worker = *link;
        bool stays = !worker->final;
        if (worker->final && cannot_remove(pool, worker))
            stays = failed = pool->removal_failed = true;
        if (stays) {
            link = &worker->next;
            continue;
        }
        TESTPOINT("segment-unlinked"); /* The next life does not find it, though its checkpoint knows it. */
        *link = worker->next;
        pool_forget_worker(pool, worker);
    }
    pool->removal_failed = failed;
}

void pool_after_checkpoint(struct pool *pool)
{
    deliver_windows(pool);
    pool_store_heads(pool);
    TESTPOINT("heads-stored"); /* Workers see room in their lanes; the next life is told of no more than was
                                  committed. */
    remove_final(pool);
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
    TESTPOINT("pool-emptied"); /* Workers to come make it whole again; the next life finds its checkpoint. */
    empty_folder(pool->path);
    if (rmdir(pool->path) != 0 && errno != ENOENT)
        log_line("cannot remove %s: %s", pool->path, strerror(errno));
}
