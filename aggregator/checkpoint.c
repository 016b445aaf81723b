/* The commit of a pool's state: see checkpoint.h. */
#include "aggregator/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "aggregator/checkpoint_piece.h"
#include "aggregator/destination/destination.h"
#include "aggregator/log.h"
#include "aggregator/pack.h"
#include "aggregator/store.h"
#include "shm/clock.h"
#include "shm/fault.h"
#include "shm/testpoint.h"

enum {
    NAMES_PARTS = 3, /* types, instructions, stacks */
    SECURE_MS = 300, /* a disk that takes longer to write a second's messages shall not hold up the drain */
};
/* A chain this much longer than its first piece is begun anew, though no window was closed. */
#define CHAIN_GROWTH (UINT64_C(4) << 20)

static void path_in(const struct pool *pool, const char *name, char out[DIRECTORY_PATH_MAX])
{
    if (directory_join(out, pool->path, name) != 0)
        out[0] = '\0';
}

static void window_path(const struct pool *pool, uint64_t id, char out[DIRECTORY_PATH_MAX])
{
    char name[40];
    snprintf(name, sizeof name, "window-%llu", (unsigned long long)id);
    path_in(pool, name, out);
}

/* ---- the names log ----------------------------------------------------------------------------------- */

static void pack_names(msgpack_packer *packer, const struct names *names, uint32_t from, uint32_t to)
{
    msgpack_pack_array(packer, to - from);
    for (uint32_t id = from; id < to; id++) {
        const char *text = names_text(names, id);
        msgpack_pack_str(packer, strlen(text));
        msgpack_pack_str_body(packer, text, strlen(text));
    }
}

/* Append what is new. The pool notes how far the log goes only when that is committed. */
static int keep_names(struct pool *pool, struct piece_counts *counts)
{
    const struct merge *merge = &pool->merge;
    counts->names_bytes = pool->names_bytes;
    counts->types = names_count(&merge->types);
    counts->instructions = names_count(&merge->instructions);
    counts->stacks = stacks_count(&merge->stacks);
    if (counts->types == pool->types_kept && counts->instructions == pool->instructions_kept &&
        counts->stacks == pool->stacks_kept)
        return 0;
    msgpack_sbuffer buffer;
    msgpack_packer packer;
    msgpack_sbuffer_init(&buffer);
    msgpack_packer_init(&packer, &buffer, msgpack_sbuffer_write);
    msgpack_pack_array(&packer, NAMES_PARTS);
    pack_names(&packer, &merge->types, pool->types_kept, counts->types);
    pack_names(&packer, &merge->instructions, pool->instructions_kept, counts->instructions);
    uint32_t nodes = counts->stacks - pool->stacks_kept;
    msgpack_pack_bin(&packer, nodes * sizeof(struct stack_node));
    for (uint32_t id = pool->stacks_kept; id < counts->stacks; id++) {
        struct stack_node node = stacks_node(&merge->stacks, id);
        msgpack_pack_bin_body(&packer, &node, sizeof node);
    }
    char path[DIRECTORY_PATH_MAX];
    path_in(pool, "names", path);
    int rc = store_append(path, &counts->names_bytes, buffer.data, buffer.size);
    msgpack_sbuffer_destroy(&buffer);
    return rc;
}

static bool load_names(struct names *names, const msgpack_object *list, uint32_t *kept)
{
    if (list->type != MSGPACK_OBJECT_ARRAY)
        return false;
    for (uint32_t i = 0; i < list->via.array.size; i++) {
        const msgpack_object *text = &list->via.array.ptr[i];
        if (text->type != MSGPACK_OBJECT_STR)
            return false;
        uint32_t id = (*kept)++;
        /* Ids are given in order, so the same names in the same order get the same ids. */
        if (names_intern(names, text->via.str.ptr, text->via.str.size) != id)
            return false;
    }
    return true;
}

static int load_some_names(const char *data, size_t bytes, void *context)
{
    struct pool *pool = context;
    struct pack_reader reader;
    bool right = pack_open(&reader, data, bytes, NAMES_PARTS);
    size_t size = 0;
    const void *nodes = right ? pack_bin(&reader.part[2], sizeof(struct stack_node), &size) : NULL;
    right = nodes != NULL && load_names(&pool->merge.types, &reader.part[0], &pool->types_kept) &&
            load_names(&pool->merge.instructions, &reader.part[1], &pool->instructions_kept);
    for (size_t i = 0; right && i < size; i++) {
        struct stack_node node;
        memcpy(&node, (const char *)nodes + i * sizeof node, sizeof node);
        uint32_t id = pool->stacks_kept++;
        if (id == 0)
            continue; /* the empty stack is there from the start */
        right = node.parent < id && node.instruction < names_count(&pool->merge.instructions) &&
                stacks_child(&pool->merge.stacks, node.parent, node.instruction) == id;
    }
    pack_close(&reader);
    return right ? 0 : fault(EBADMSG, "the names log does not add up");
}

/* ---- windows ----------------------------------------------------------------------------------------- */

static int keep_windows(struct pool *pool)
{
    for (uint32_t i = 0; i < pool->windows.count; i++) {
        struct window *window = pool->windows.closed[i];
        if (window->id != 0)
            continue;
        msgpack_sbuffer buffer;
        msgpack_packer packer;
        char path[DIRECTORY_PATH_MAX];
        msgpack_sbuffer_init(&buffer);
        msgpack_packer_init(&packer, &buffer, msgpack_sbuffer_write);
        pack_window(&packer, window, false);
        window_path(pool, pool->next_window, path);
        int rc = store_write(path, buffer.data, buffer.size);
        msgpack_sbuffer_destroy(&buffer);
        if (rc != 0)
            return rc;
        window->id = pool->next_window++;
    }
    return 0;
}

static int load_window(struct pool *pool, uint64_t id)
{
    char path[DIRECTORY_PATH_MAX], *data;
    size_t bytes;
    window_path(pool, id, path);
    int rc = store_read(path, &data, &bytes);
    if (rc != 0)
        return rc;
    struct pack_reader reader;
    struct window *window = NULL;
    if (pack_open(&reader, data, bytes, WINDOW_PARTS))
        window = unpack_window(&reader.object);
    pack_close(&reader);
    free(data);
    if (window == NULL || !piece_fits(pool, window)) {
        window_put(window);
        return fault(EBADMSG, "%s", path);
    }
    window->id = id;
    pool->windows.closed[pool->windows.count++] = window;
    return 0;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static int write_piece(struct pool *pool, const struct piece_counts *counts, bool whole)
{
    char path[DIRECTORY_PATH_MAX];
    msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    piece_pack(&buffer, pool, counts, whole);
    path_in(pool, "checkpoint", path);
    int rc = whole ? store_chain_begin(&pool->chain, path, buffer.data, buffer.size)
                   : store_chain_append(&pool->chain, buffer.data, buffer.size);
    pool->checkpoint_bytes = buffer.size;
    if (rc == 0 && whole)
        pool->whole_bytes = buffer.size;
    msgpack_sbuffer_destroy(&buffer);
    return rc;
}

/* While a chain is begun anew the old one is still there, and the new one may be as long. */
static bool room_is_scarce(const struct pool *pool)
{
    struct statvfs system;
    return fstatvfs(pool->chain.fd, &system) == 0 && system.f_blocks != 0 &&
           system.f_bavail * system.f_frsize < 2 * pool->chain.bytes;
}

static bool wants_whole(const struct pool *pool)
{
    return pool->whole || store_chain_lost(&pool->chain) || pool->merge.actions.untold ||
           pool->chain.bytes > 2 * pool->whole_bytes + CHAIN_GROWTH ||
           (pool->chain.bytes > 2 * pool->whole_bytes && room_is_scarce(pool));
}

static void drop_windows(struct pool *pool)
{
    for (unsigned i = 0; i < pool->dropped_windows; i++) {
        char path[DIRECTORY_PATH_MAX];
        window_path(pool, pool->dropped_window[i], path);
        unlink(path);
        TESTPOINT(
            "window-unlinked"); /* The next life sees fewer files; its checkpoint mentions none of them. */
    }
    pool->dropped_windows = 0;
}

/* All that a death may come between, in the order that checkpoint.h promises. */
static int commit(struct pool *pool, bool whole)
{
    struct piece_counts counts = {0};
    int rc = keep_names(pool, &counts);
    if (rc == 0)
        rc = keep_windows(pool);
    counts.next_window = pool->next_window;
    counts.round = pool->merge.round;
    counts.ever = pool->ever;
    counts.next_number = pool->next_number;
    counts.told_until_ns = pool->told_until_ns;
#ifdef POM_BREAK_HEAD_BEFORE_CHECKPOINT
    pool_store_heads(pool);
#endif
    if (rc == 0)
        rc = write_piece(pool, &counts, whole);
    if (rc != 0)
        return rc;
    TESTPOINT("piece-committed"); /* The next life begins here; workers still see the heads of before. */
    pool->names_bytes = counts.names_bytes;
    pool->types_kept = counts.types;
    pool->instructions_kept = counts.instructions;
    pool->stacks_kept = counts.stacks;
    return 0;
}

int checkpoint_write(struct pool *pool)
{
    uint64_t began = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
    bool whole = wants_whole(pool);
    /* What this one takes for handed on must not be lost with this process. */
    destinations_secure(SECURE_MS);
    int rc = commit(pool, whole);
    if (rc != 0) {
        if (!pool->checkpoint_failed)
            log_line("pool %s: no checkpoint, it is tried again: %s", pool->source, fault_text());
        pool->checkpoint_failed = true;
        return rc;
    }
    pool->checkpoint_failed = pool->whole = pool->dirty = false;
    piece_commit(pool, whole);
    drop_windows(pool);
    pool_after_checkpoint(pool);
    /* Smoothed, because a whole one now and then is dearer than the others. */
    uint64_t cost = clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - began;
    pool->checkpoint_cost_ns = (7 * pool->checkpoint_cost_ns + cost) / 8;
    return 0;
}

void checkpoint_renew(struct pool *pool)
{
    pool->names_bytes = 0;
    pool->types_kept = pool->instructions_kept = pool->stacks_kept = 0;
    for (uint32_t i = 0; i < pool->windows.count; i++)
        pool->windows.closed[i]->id = 0;
    pool->dropped_windows = 0;
    pool->dirty = pool->whole = true;
}

/* ---- loading ------------------------------------------------------------------------------------------- */

/* Windows whose removal a death came before, or that no checkpoint mentions any more. */
static void sweep_windows(const struct pool *pool)
{
    DIR *directory = opendir(pool->path);
    if (directory == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        unsigned long long id;
        int end = 0;
        if (sscanf(entry->d_name, "window-%llu%n", &id, &end) != 1 || entry->d_name[end] != '\0')
            continue;
        bool kept = false;
        for (uint32_t i = 0; i < pool->windows.count && !kept; i++)
            kept = pool->windows.closed[i]->id == id;
        if (!kept)
            unlinkat(dirfd(directory), entry->d_name, 0);
    }
    closedir(directory);
}

/* How far the chain goes, and what its last piece counts. */
static int survey(const char *data, size_t bytes, struct piece_counts *last)
{
    struct store_cursor cursor = {.data = data, .bytes = bytes};
    const char *content;
    size_t size;
    int pieces = 0;
    while (store_chain_next(&cursor, &content, &size)) {
        struct piece piece;
        int rc = piece_open(&piece, content, size);
        if (rc == 0)
            *last = piece.counts;
        piece_close(&piece);
        if (rc != 0)
            return rc;
        pieces++;
    }
    if (pieces == 0)
        return fault(EBADMSG, "the checkpoint is damaged");
    /* What is behind a damaged piece is lost; counters are absolute, and heads tell how much of the lanes was
     * read. */
    if (store_chain_damaged(&cursor))
        log_line("a checkpoint is damaged behind its piece %d: what was committed later is forgotten",
                 pieces);
    return pieces;
}

static int load_names_log(struct pool *pool, const struct piece_counts *last)
{
    char path[DIRECTORY_PATH_MAX];
    path_in(pool, "names", path);
    int rc = store_replay(path, last->names_bytes, load_some_names, pool);
    pool->names_bytes = last->names_bytes;
    return rc;
}

static int load_windows(struct pool *pool, const struct piece *whole)
{
    uint64_t id[WINDOWS_MOST];
    uint32_t count = piece_windows(whole, id);
    int rc = 0;
    for (uint32_t i = 0; i < count && rc == 0; i++)
        rc = load_window(pool, id[i]);
    return rc;
}

static int replay(struct pool *pool, const char *data, size_t bytes, int pieces)
{
    struct store_cursor cursor = {.data = data, .bytes = bytes};
    const char *content;
    size_t size;
    int rc = 0;
    for (int i = 0; i < pieces && rc == 0 && store_chain_next(&cursor, &content, &size); i++) {
        struct piece piece;
        rc = piece_open(&piece, content, size);
        if (rc == 0 && i == 0)
            rc = load_windows(pool, &piece);
        if (rc == 0)
            rc = piece_apply(pool, &piece);
        piece_close(&piece);
    }
    pool->known_last = NULL;
    if (rc == 0 && !piece_fits(pool, pool->merge.open))
        rc = fault(EBADMSG, "its open window does not add up");
    return rc;
}

/* Latencies seen before the restart, so that slow and typical are told apart at once. */
static void recall_latencies(struct pool *pool)
{
    for (uint32_t w = 0; w <= pool->windows.count; w++) {
        const struct window *window = w < pool->windows.count ? pool->windows.closed[w] : pool->merge.open;
        for (uint32_t i = 0; i < window->profile.types; i++)
            merge_recall(&pool->merge, &window->profile.type[i]);
    }
}

int checkpoint_load(struct pool *pool)
{
    char path[DIRECTORY_PATH_MAX], *data;
    size_t bytes;
    path_in(pool, "checkpoint", path);
    pool->whole = true; /* nothing is appended to what another life wrote */
    int rc = store_chain_read(path, &data, &bytes);
    if (rc == -ENOENT)
        return 0;
    if (rc != 0)
        return rc;
    struct piece_counts last = {0};
    int pieces = survey(data, bytes, &last);
    rc = pieces < 0 ? pieces : load_names_log(pool, &last);
    if (rc == 0)
        rc = replay(pool, data, bytes, pieces);
    free(data);
    if (rc != 0)
        return rc;
    const struct window_sums *sums = &pool->merge.open->sums;
    pool->cycle_base = *sums;
    pool->own_cpu_ns = sums->sampler_cpu_ns + sums->hook_cpu_ns;
    recall_latencies(pool);
    sweep_windows(pool);
    return 0;
}

void checkpoint_forget(struct pool *pool)
{
    char path[DIRECTORY_PATH_MAX], aside[DIRECTORY_PATH_MAX + 16];
    path_in(pool, "checkpoint", path);
    snprintf(aside, sizeof aside, "%s.damaged", path);
    rename(path, aside);
    TESTPOINT("checkpoint-aside"); /* The next life finds no chain, and begins at the heads. */
    for (struct known_worker *known = pool->known, *next; known != NULL; known = next) {
        next = known->next;
        taken_close(&known->taken);
        free(known);
    }
    pool->known = pool->known_last = NULL;
    windows_free(&pool->windows);
    sweep_windows(pool);
    struct merge fresh;
    if (merge_open(&fresh, clock_monotonic_ns(), clock_realtime_ns()) != 0)
        abort(); /* out of memory at the start: there is nothing to go on with */
    fresh.on_root = pool->merge.on_root;
    fresh.context = pool->merge.context;
    merge_close(&pool->merge);
    pool->merge = fresh;
    pool->names_bytes = 0;
    pool->types_kept = pool->instructions_kept = pool->stacks_kept = 0;
    pool->next_number = 1;
    pool->told_until_ns = 0;
    pool->own_cpu_ns = 0;
    memset(&pool->cycle_base, 0, sizeof pool->cycle_base);
}
