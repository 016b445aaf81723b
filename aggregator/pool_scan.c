/* The finding of what lies in a pool's folder, segments and requests: see pool_parts.h. */
#include "aggregator/pool_parts.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "aggregator/checkpoint.h"
#include "aggregator/claims.h"
#include "aggregator/log.h"
#include "shm/fault.h"

struct worker **pool_named(struct pool *pool, const char *name)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (const char *c = name; *c != '\0'; c++)
        hash = (hash ^ (uint8_t)*c) * 16777619u;
    return &pool->named[hash & (POOL_NAMED - 1)];
}

/* A folder of a thousand segments is read again whenever a worker comes. */
static bool is_known_file(struct pool *pool, const char *name)
{
    for (const struct worker *worker = *pool_named(pool, name); worker != NULL; worker = worker->next_named)
        if (strcmp(worker_name(worker), name) == 0)
            return true;
    for (unsigned i = 0; i < pool->refused_count; i++)
        if (strcmp(pool->refused[i], name) == 0)
            return true;
    return false;
}

/* Want of descriptors or memory passes, and so does being read-only: such a file is looked at again. */
static bool passes(int rc)
{
    return rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM || rc == -EINTR || rc == -EROFS;
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
    if (pool->refused_count == POOL_REFUSED_MOST)
        return;
    log_line("pool %s: %s", pool->source, fault_text());
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
void pool_forget_unfound(struct pool *pool)
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
        claims_take(worker); /* what it claimed before was judged by the life before this one */
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
    struct worker **named = pool_named(pool, name);
    worker->next_named = *named;
    *named = worker;
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
                 !is_known_file(pool, entry->d_name))
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
    pool_limits_retell(pool);
    log_line("pool %s: its folder was removed and made again", pool->source);
}

bool pool_is_ours(const struct stat *st, uid_t uid)
{
    return S_ISDIR(st->st_mode) && (st->st_uid == uid || st->st_uid == geteuid());
}

void pool_scan(struct pool *pool, bool force)
{
    struct stat st;
    if (lstat(pool->path, &st) != 0 || !pool_is_ours(&st, pool->uid))
        return;
    if (st.st_ino != pool->folder_inode) {
        renew(pool);
        force = true;
    }
    force |= pool->rescan || pool->requests.again;
    pool->rescan = false;
    if (changed(pool->folder, &pool->folder_seen, force) &&
        requests_scan(&pool->requests, pool->folder, pool->uid, pool->source, pool->config))
        pool_judge_requests(pool);
    if (changed(pool->rings, &pool->rings_seen, force)) {
        scan_rings(pool);
        if (pool->known != NULL && !pool->rescan)
            pool_forget_unfound(pool);
    }
}

void pool_reload(struct pool *pool)
{
    requests_close(&pool->requests);
    requests_scan(&pool->requests, pool->folder, pool->uid, pool->source, pool->config);
    pool_judge_requests(pool);
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
        pool_judge_requests(pool);
}
