/* The commit of a pool's state: see checkpoint.h. */
#include "aggregator/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "aggregator/log.h"
#include "aggregator/pack.h"
#include "aggregator/store.h"
#include "shm/clock.h"
#include "shm/fault.h"

enum {
    CHECKPOINT_PARTS = 6, /* layout, counts, window ids, open window, workers, actions */
    PIECE_PARTS = 3,      /* types, instructions, stacks */
    WORKER_PARTS = 5,     /* head, page, rows, blocks, owners */
};

/* What a reader must agree on before it looks at raw structs: the checkpoint is for this build's eyes only.
 */
struct layout {
    uint32_t version, window_head, sums, totals, cell, action, sample, page, row;
};
static const struct layout layout = {
    .version = 2,
    .window_head = sizeof(struct window_head),
    .sums = sizeof(struct window_sums),
    .totals = sizeof(struct type_totals),
    .cell = sizeof(struct cell),
    .action = sizeof(struct action),
    .sample = sizeof(struct held_sample),
    .page = sizeof(struct taken_page),
    .row = sizeof(struct taken_row),
};

struct counts {
    uint64_t names_bytes, next_window, round, ever;
    uint32_t types, instructions, stacks, next_number;
};

struct worker_head {
    uint8_t uuid[16];
    uint64_t position[SEGMENT_LANES];
    uint64_t cpu_ns;
    uint32_t number, rows, blocks, quarantined;
};

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
static int keep_names(struct pool *pool, struct counts *counts)
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
    msgpack_pack_array(&packer, PIECE_PARTS);
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

static int load_piece(const char *data, size_t bytes, void *context)
{
    struct pool *pool = context;
    struct pack_reader reader;
    bool right = pack_open(&reader, data, bytes, PIECE_PARTS);
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
        pack_window(&packer, window);
        window_path(pool, pool->next_window, path);
        int rc = store_write(path, buffer.data, buffer.size);
        msgpack_sbuffer_destroy(&buffer);
        if (rc != 0)
            return rc;
        window->id = pool->next_window++;
    }
    return 0;
}

/* Does all that it mentions stand in the names log? */
static bool fits(const struct pool *pool, const struct window *window)
{
    const struct profile *profile = &window->profile;
    uint32_t types = names_count(&pool->merge.types), stacks = stacks_count(&pool->merge.stacks);
    bool right = true;
    for (uint32_t i = 0; i < profile->types && right; i++)
        right = profile->type[i].type < types;
    for (uint32_t i = 0; i < profile->cells && right; i++)
        right = profile->cell[i].type < types && profile->cell[i].stack < stacks;
    return right;
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
    if (window == NULL || !fits(pool, window)) {
        window_put(window);
        return fault(EBADMSG, "%s", path);
    }
    window->id = id;
    pool->windows.closed[pool->windows.count++] = window;
    return 0;
}

/* ---- workers ----------------------------------------------------------------------------------------- */

static void pack_worker(msgpack_packer *packer, const struct worker *worker)
{
    const struct taken *taken = &worker->taken;
    struct worker_head head = {
        .cpu_ns = worker->cpu_ns,
        .number = worker->number,
        .rows = taken->rows,
        .blocks = taken->blocks,
        .quarantined = worker->quarantined,
    };
    memcpy(head.uuid, worker->header.uuid, sizeof head.uuid);
    memcpy(head.position, worker->position, sizeof head.position);
    msgpack_pack_array(packer, WORKER_PARTS);
    pack_raw(packer, &head, sizeof head);
    pack_raw(packer, &taken->page, sizeof taken->page);
    pack_raw(packer, taken->row, taken->rows * sizeof *taken->row);
    pack_raw(packer, taken->block, taken->blocks * sizeof *taken->block);
    pack_raw(packer, taken->block_owner, taken->blocks * sizeof *taken->block_owner);
}

static void pack_workers(msgpack_packer *packer, const struct pool *pool)
{
    uint32_t count = 0;
    for (const struct worker *worker = pool->workers; worker != NULL; worker = worker->next)
        count++;
    msgpack_pack_array(packer, count);
    /* Quarantined ones too: what was merged of them until then must not be merged again. */
    for (const struct worker *worker = pool->workers; worker != NULL; worker = worker->next)
        pack_worker(packer, worker);
}

static bool load_worker(struct pool *pool, const msgpack_object *object)
{
    if (object->type != MSGPACK_OBJECT_ARRAY || object->via.array.size != WORKER_PARTS)
        return false;
    const msgpack_object *part = object->via.array.ptr;
    struct worker_head head;
    size_t rows, blocks, owners;
    const void *row = pack_bin(&part[2], sizeof(struct taken_row), &rows);
    const void *block = pack_bin(&part[3], sizeof(uint32_t[HISTOGRAM_SUB]), &blocks);
    const void *owner = pack_bin(&part[4], sizeof(uint16_t), &owners);
    struct known_worker *known = calloc(1, sizeof *known);
    if (known == NULL || row == NULL || block == NULL || owner == NULL ||
        !pack_struct(&part[0], &head, sizeof head) ||
        !pack_struct(&part[1], &known->taken.page, sizeof known->taken.page) || rows != head.rows ||
        blocks != head.blocks || owners != blocks || rows > COUNTER_TYPES || blocks > HISTOGRAM_BLOCKS ||
        taken_reserve(&known->taken, head.rows, head.blocks) != 0) {
        free(known);
        return false;
    }
    memcpy(known->uuid, head.uuid, sizeof known->uuid);
    memcpy(known->position, head.position, sizeof known->position);
    known->number = head.number;
    known->cpu_ns = head.cpu_ns;
    known->quarantined = head.quarantined != 0;
    if (rows != 0)
        memcpy(known->taken.row, row, rows * sizeof(struct taken_row));
    if (blocks != 0) {
        memcpy(known->taken.block, block, blocks * sizeof(uint32_t[HISTOGRAM_SUB]));
        memcpy(known->taken.block_owner, owner, blocks * sizeof(uint16_t));
    }
    known->next = pool->known;
    pool->known = known;
    return true;
}

/* ---- open actions ------------------------------------------------------------------------------------ */

static void pack_action(msgpack_packer *packer, const struct actions *actions, uint32_t index)
{
    const struct action *action = &actions->action[index];
    pack_raw(packer, action, sizeof *action);
    msgpack_pack_bin(packer, action->samples * sizeof(struct held_sample));
    for (uint32_t s = action->first_sample; s != ACTIONS_NONE; s = actions->sample[s].next)
        msgpack_pack_bin_body(packer, &actions->sample[s], sizeof actions->sample[s]);
}

/* Roots in order, each followed by its open nested actions. Closed ones have passed their samples on. */
static void pack_actions(msgpack_packer *packer, const struct actions *actions)
{
    uint32_t count = 0;
    for (uint32_t root = actions->oldest; root != ACTIONS_NONE; root = actions->action[root].newer) {
        count++;
        for (uint32_t at = actions->action[root].family; at != ACTIONS_NONE; at = actions->action[at].sibling)
            count += !actions->action[at].closed;
    }
    msgpack_pack_array(packer, 2 * count);
    for (uint32_t root = actions->oldest; root != ACTIONS_NONE; root = actions->action[root].newer) {
        pack_action(packer, actions, root);
        for (uint32_t at = actions->action[root].family; at != ACTIONS_NONE; at = actions->action[at].sibling)
            if (!actions->action[at].closed)
                pack_action(packer, actions, at);
    }
}

static bool load_action(struct merge *merge, const msgpack_object *part)
{
    struct actions *actions = &merge->actions;
    struct action kept;
    size_t count;
    const void *samples = pack_bin(&part[1], sizeof(struct held_sample), &count);
    if (samples == NULL || !pack_struct(&part[0], &kept, sizeof kept) ||
        kept.type >= names_count(&merge->types) ||
        actions_find(actions, kept.worker, kept.begin.action_serial) != ACTIONS_NONE)
        return false;
    uint32_t index = actions_begin(actions, kept.worker, kept.type, &kept.begin);
    if (index == ACTIONS_NONE)
        return false;
    struct action *action = &actions->action[index];
    action->folded = kept.folded;
    action->ended = kept.ended;
    action->ended_round = kept.ended_round;
    action->end = kept.end;
    actions->ended += kept.ended;
    for (size_t i = 0; i < count; i++) {
        struct held_sample held;
        memcpy(&held, (const char *)samples + i * sizeof held, sizeof held);
        struct record_sample sample = {
            .time_ns = held.time_ns,
            .action_serial = held.serial,
            .state = held.state,
            .wall_ns = held.wall_ns,
            .cpu_ns = held.cpu_ns,
        };
        if (held.state >= SAMPLE_STATES || held.stack >= stacks_count(&merge->stacks) ||
            !actions_hold(actions, index, &sample, held.stack))
            return false;
    }
    return true;
}

/* ---- the whole --------------------------------------------------------------------------------------- */

static int write_whole(struct pool *pool, struct counts *counts)
{
    msgpack_sbuffer buffer;
    msgpack_packer packer;
    msgpack_sbuffer_init(&buffer);
    msgpack_packer_init(&packer, &buffer, msgpack_sbuffer_write);
    counts->next_window = pool->next_window;
    counts->round = pool->merge.round;
    counts->ever = pool->ever;
    counts->next_number = pool->next_number;
    msgpack_pack_array(&packer, CHECKPOINT_PARTS);
    pack_raw(&packer, &layout, sizeof layout);
    pack_raw(&packer, counts, sizeof *counts);
    msgpack_pack_array(&packer, pool->windows.count);
    for (uint32_t i = 0; i < pool->windows.count; i++)
        msgpack_pack_uint64(&packer, pool->windows.closed[i]->id);
    pack_window(&packer, pool->merge.open);
    pack_workers(&packer, pool);
    pack_actions(&packer, &pool->merge.actions);
    char path[DIRECTORY_PATH_MAX];
    path_in(pool, "checkpoint", path);
    int rc = store_write(path, buffer.data, buffer.size);
    pool->checkpoint_bytes = buffer.size;
    msgpack_sbuffer_destroy(&buffer);
    return rc;
}

int checkpoint_write(struct pool *pool)
{
    uint64_t began = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
    struct counts counts = {0};
    int rc = keep_names(pool, &counts);
    if (rc == 0)
        rc = keep_windows(pool);
    if (rc == 0)
        rc = write_whole(pool, &counts);
    if (rc != 0) {
        if (!pool->checkpoint_failed)
            log_line("pool %s: no checkpoint, it is tried again: %s", pool->source, fault_text());
        pool->checkpoint_failed = true;
        return rc;
    }
    pool->checkpoint_failed = false;
    pool->names_bytes = counts.names_bytes;
    pool->types_kept = counts.types;
    pool->instructions_kept = counts.instructions;
    pool->stacks_kept = counts.stacks;
    for (unsigned i = 0; i < pool->dropped_windows; i++) {
        char path[DIRECTORY_PATH_MAX];
        window_path(pool, pool->dropped_window[i], path);
        unlink(path);
    }
    pool->dropped_windows = 0;
    pool->dirty = false;
    pool_after_checkpoint(pool);
    pool->checkpoint_cost_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - began;
    return 0;
}

void checkpoint_renew(struct pool *pool)
{
    pool->names_bytes = 0;
    pool->types_kept = pool->instructions_kept = pool->stacks_kept = 0;
    for (uint32_t i = 0; i < pool->windows.count; i++)
        pool->windows.closed[i]->id = 0;
    pool->dropped_windows = 0;
    pool->dirty = true;
}

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

static int load_parts(struct pool *pool, const msgpack_object *part)
{
    struct layout there;
    struct counts counts;
    if (!pack_struct(&part[0], &there, sizeof there) || memcmp(&there, &layout, sizeof layout) != 0)
        return fault(EBADMSG, "the checkpoint is of another version");
    if (!pack_struct(&part[1], &counts, sizeof counts) || part[2].type != MSGPACK_OBJECT_ARRAY ||
        part[2].via.array.size > WINDOWS_MOST || part[4].type != MSGPACK_OBJECT_ARRAY ||
        part[5].type != MSGPACK_OBJECT_ARRAY || part[5].via.array.size % 2 != 0)
        return fault(EBADMSG, "the checkpoint does not add up");
    char path[DIRECTORY_PATH_MAX];
    path_in(pool, "names", path);
    int rc = store_replay(path, counts.names_bytes, load_piece, pool);
    if (rc != 0)
        return rc;
    pool->names_bytes = counts.names_bytes;
    pool->next_window = counts.next_window;
    pool->next_number = counts.next_number;
    pool->merge.round = counts.round;
    pool->ever = counts.ever;
    for (uint32_t i = 0; i < part[2].via.array.size && rc == 0; i++)
        rc = load_window(pool, part[2].via.array.ptr[i].via.u64);
    struct window *open = rc == 0 ? unpack_window(&part[3]) : NULL;
    if (open == NULL || !fits(pool, open)) {
        window_put(open);
        return rc != 0 ? rc : fault(EBADMSG, "its open window does not add up");
    }
    window_put(pool->merge.open);
    pool->merge.open = open;
    pool->cycle_base = open->sums;
    pool->own_cpu_ns = open->sums.sampler_cpu_ns + open->sums.hook_cpu_ns;
    for (uint32_t i = 0; i < part[4].via.array.size; i++)
        if (!load_worker(pool, &part[4].via.array.ptr[i]))
            return fault(EBADMSG, "its workers do not add up");
    for (uint32_t i = 0; i < part[5].via.array.size; i += 2)
        if (!load_action(&pool->merge, &part[5].via.array.ptr[i]))
            return fault(EBADMSG, "its open actions do not add up");
    return 0;
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
    int rc = store_read(path, &data, &bytes);
    if (rc == -ENOENT)
        return 0;
    if (rc != 0)
        return rc;
    struct pack_reader reader;
    if (pack_open(&reader, data, bytes, CHECKPOINT_PARTS))
        rc = load_parts(pool, reader.part);
    else
        rc = fault(EBADMSG, "%s", path);
    pack_close(&reader);
    free(data);
    if (rc == 0) {
        recall_latencies(pool);
        sweep_windows(pool);
    }
    return rc;
}

void checkpoint_forget(struct pool *pool)
{
    char path[DIRECTORY_PATH_MAX], aside[DIRECTORY_PATH_MAX + 16];
    path_in(pool, "checkpoint", path);
    snprintf(aside, sizeof aside, "%s.damaged", path);
    rename(path, aside);
    for (struct known_worker *known = pool->known, *next; known != NULL; known = next) {
        next = known->next;
        taken_close(&known->taken);
        free(known);
    }
    pool->known = NULL;
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
    pool->own_cpu_ns = 0;
    memset(&pool->cycle_base, 0, sizeof pool->cycle_base);
}
