/* What changed, as bytes and back: see checkpoint_piece.h. */
#include "aggregator/checkpoint_piece.h"

#include <errno.h>
#include <string.h>

#include "aggregator/checkpoint_workers.h"
#include "shm/fault.h"

enum {
    PART_LAYOUT,
    PART_COUNTS,
    PART_WINDOWS,
    PART_OPEN_WINDOW,
    PART_WORKERS,
    PART_GONE,
    PART_ACTIONS,
    ACTION_PARTS = 3, /* what it is, its samples, its messages */
};

struct kept_action {
    struct record_begin begin;
    struct record_end end;
    uint64_t ended_round;
    uint64_t enclosing; /* serial of the nearest open action around it; 0: none */
    uint32_t worker, type, ended, folded;
};

/* Instead of it, where an action of the piece before got samples and nothing else. */
struct kept_key {
    uint64_t serial;
    uint32_t worker, pad;
};

struct kept_sample {
    uint64_t time_ns, wall_ns, cpu_ns, serial;
    uint32_t stack, state;
};

/* Followed by its text. */
struct kept_message {
    uint64_t time_ns, serial;
    uint32_t length, depth, flags, pad;
};

/* What a reader must agree on before it looks at structs: a checkpoint is for this build's eyes only. */
struct layout {
    uint32_t version, counts, window_head, totals, cell, worker, page, row, block, action, sample, message,
        gone;
};
static const struct layout layout = {
    .version = 9,
    .counts = sizeof(struct piece_counts),
    .window_head = sizeof(struct window_head),
    .totals = sizeof(struct type_totals),
    .cell = sizeof(struct cell),
    .worker = sizeof(struct worker_head),
    .page = sizeof(struct taken_page),
    .row = sizeof(struct kept_row),
    .block = sizeof(struct kept_block),
    .action = sizeof(struct kept_action),
    .sample = sizeof(struct kept_sample),
    .message = sizeof(struct kept_message),
    .gone = sizeof(struct action_gone),
};

/* ---- open actions -------------------------------------------------------------------------------------- */

static void pack_story(msgpack_packer *packer, const struct actions *actions, uint32_t index)
{
    const struct action *action = &actions->action[index];
    uint32_t around = actions_enclosing(actions, index);
    struct kept_action kept = {
        .begin = action->begin,
        .end = action->end,
        .ended_round = action->ended_round,
        .enclosing = around != ACTIONS_NONE ? actions->action[around].begin.action_serial : 0,
        .worker = action->worker,
        .type = action->type,
        .ended = action->ended,
        .folded = action->folded,
    };
    pack_raw(packer, &kept, sizeof kept);
}

static void pack_messages(msgpack_packer *packer, const struct messages *messages, bool whole)
{
    const struct held_message *first = whole ? messages->first : messages_first_fresh(messages);
    size_t bytes = 0;
    for (const struct held_message *at = first; at != NULL; at = at->next)
        bytes += sizeof(struct kept_message) + at->length;
    msgpack_pack_bin(packer, bytes);
    for (const struct held_message *at = first; at != NULL; at = at->next) {
        struct kept_message kept = {.time_ns = at->time_ns,
                                    .serial = at->serial,
                                    .length = at->length,
                                    .depth = at->depth,
                                    .flags = at->flags};
        msgpack_pack_bin_body(packer, &kept, sizeof kept);
        msgpack_pack_bin_body(packer, at->text, at->length);
    }
}

static void pack_action(msgpack_packer *packer, const struct actions *actions, uint32_t index, bool whole)
{
    const struct action *action = &actions->action[index];
    struct kept_key key = {.serial = action->begin.action_serial, .worker = action->worker};
    if (whole || action->changed)
        pack_story(packer, actions, index);
    else
        pack_raw(packer, &key, sizeof key);
    uint32_t first = whole ? action->first_sample : actions_first_fresh(actions, index), count = 0;
    for (uint32_t s = first; s != ACTIONS_NONE; s = actions->sample[s].next)
        count++;
    msgpack_pack_bin(packer, count * sizeof(struct kept_sample));
    for (uint32_t s = first; s != ACTIONS_NONE; s = actions->sample[s].next) {
        const struct held_sample *held = &actions->sample[s];
        struct kept_sample sample = {held->time_ns, held->wall_ns, held->cpu_ns,
                                     held->serial,  held->stack,   held->state};
        msgpack_pack_bin_body(packer, &sample, sizeof sample);
    }
    pack_messages(packer, &action->messages, whole);
}

/* In the order in which they began, so that what is around an action comes before it. */
static void pack_touched(msgpack_packer *packer, const struct actions *actions)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < actions->touched_count; i++)
        count += actions_touched(actions, i) != ACTIONS_NONE;
    msgpack_pack_array(packer, ACTION_PARTS * count);
    for (uint32_t i = 0; i < actions->touched_count; i++) {
        uint32_t index = actions_touched(actions, i);
        if (index != ACTIONS_NONE)
            pack_action(packer, actions, index, false);
    }
}

/* Roots in order, each followed by its open nested actions. Closed ones have passed their samples on. */
static void pack_all(msgpack_packer *packer, const struct actions *actions)
{
    uint32_t count = 0;
    for (uint32_t root = actions->oldest; root != ACTIONS_NONE; root = actions->action[root].newer) {
        count++;
        for (uint32_t at = actions->action[root].family; at != ACTIONS_NONE; at = actions->action[at].sibling)
            count += !actions->action[at].closed;
    }
    msgpack_pack_array(packer, ACTION_PARTS * count);
    for (uint32_t root = actions->oldest; root != ACTIONS_NONE; root = actions->action[root].newer) {
        pack_action(packer, actions, root, true);
        for (uint32_t at = actions->action[root].family; at != ACTIONS_NONE; at = actions->action[at].sibling)
            if (!actions->action[at].closed)
                pack_action(packer, actions, at, true);
    }
}

static bool apply_gone(struct actions *actions, const msgpack_object *object)
{
    size_t count = 0;
    const char *data = pack_bin(object, sizeof(struct action_gone), &count);
    for (size_t i = 0; data != NULL && i < count; i++) {
        struct action_gone gone;
        memcpy(&gone, data + i * sizeof gone, sizeof gone);
        uint32_t index = actions_find(actions, gone.worker, gone.serial);
        if (index == ACTIONS_NONE)
            return false;
        if (actions->action[index].root == index)
            actions_forget_root(actions, index);
        else
            actions_close_nested(actions, index);
    }
    return data != NULL;
}

static uint32_t begin_again(struct actions *actions, const struct kept_action *kept)
{
    /* What was around it when it began may have ended since; what is around it now is known. */
    struct record_begin begin = kept->begin;
    begin.parent_serial = kept->enclosing;
    uint32_t index = actions_begin(actions, kept->worker, kept->type, &begin);
    if (index != ACTIONS_NONE)
        actions->action[index].begin = kept->begin;
    return index;
}

/* What an action is now; ACTIONS_NONE if that does not add up. */
static uint32_t apply_story(struct merge *merge, const struct kept_action *kept)
{
    struct actions *actions = &merge->actions;
    if (kept->type >= names_count(&merge->types) || kept->begin.action_serial == 0)
        return ACTIONS_NONE;
    uint32_t index = actions_find(actions, kept->worker, kept->begin.action_serial);
    if (index == ACTIONS_NONE)
        index = begin_again(actions, kept);
    if (index == ACTIONS_NONE)
        return index;
    struct action *action = &actions->action[index];
    actions->ended += (kept->ended != 0) - action->ended;
    action->type = kept->type;
    action->folded = kept->folded != 0;
    action->ended = kept->ended != 0;
    action->ended_round = kept->ended_round;
    action->end = kept->end;
    return index;
}

static bool apply_samples(struct merge *merge, uint32_t index, const msgpack_object *object)
{
    size_t count;
    const char *data = pack_bin(object, sizeof(struct kept_sample), &count);
    for (size_t i = 0; data != NULL && i < count; i++) {
        struct kept_sample held;
        memcpy(&held, data + i * sizeof held, sizeof held);
        struct record_sample sample = {
            .time_ns = held.time_ns,
            .action_serial = held.serial,
            .state = held.state,
            .wall_ns = held.wall_ns,
            .cpu_ns = held.cpu_ns,
        };
        if (held.state >= SAMPLE_STATES || held.stack >= stacks_count(&merge->stacks) ||
            !actions_hold(&merge->actions, index, &sample, held.stack))
            return false;
    }
    return data != NULL;
}

static bool apply_messages(struct merge *merge, uint32_t index, const msgpack_object *object)
{
    size_t bytes;
    const char *data = pack_bin(object, 1, &bytes);
    while (data != NULL && bytes != 0) {
        struct kept_message kept;
        if (bytes < sizeof kept)
            return false;
        memcpy(&kept, data, sizeof kept);
        data += sizeof kept;
        bytes -= sizeof kept;
        struct record_message message = {
            .header.flags = (uint16_t)kept.flags,
            .time_ns = kept.time_ns,
            .action_serial = kept.serial,
            .length = kept.length,
            .depth = kept.depth,
        };
        if (kept.length > bytes || !actions_hold_message(&merge->actions, index, &message, data))
            return false;
        data += kept.length;
        bytes -= kept.length;
    }
    return data != NULL;
}

static bool apply_action(struct merge *merge, const msgpack_object part[ACTION_PARTS])
{
    const msgpack_object *what = &part[0];
    struct kept_action kept;
    struct kept_key key;
    uint32_t index = ACTIONS_NONE;
    if (pack_struct(what, &kept, sizeof kept))
        index = apply_story(merge, &kept);
    else if (pack_struct(what, &key, sizeof key))
        index = actions_find(&merge->actions, key.worker, key.serial);
    return index != ACTIONS_NONE && apply_samples(merge, index, &part[1]) &&
           apply_messages(merge, index, &part[2]);
}

static bool apply_actions(struct merge *merge, const msgpack_object *list)
{
    struct actions *actions = &merge->actions;
    uint32_t size = list->via.array.size;
    const msgpack_object *part = list->via.array.ptr;
    struct kept_action kept;
    /* Those whose samples were folded give room to the others. */
    for (uint32_t i = 0; i < size; i += ACTION_PARTS) {
        if (!pack_struct(&part[i], &kept, sizeof kept) || kept.folded == 0)
            continue;
        uint32_t index = actions_find(actions, kept.worker, kept.begin.action_serial);
        if (index != ACTIONS_NONE)
            actions_drop_samples(actions, index);
    }
    for (uint32_t i = 0; i < size; i += ACTION_PARTS)
        if (!apply_action(merge, &part[i]))
            return false;
    return true;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

void piece_pack(msgpack_sbuffer *buffer, const struct pool *pool, const struct piece_counts *counts,
                bool whole)
{
    const struct actions *actions = &pool->merge.actions;
    msgpack_packer packer;
    msgpack_packer_init(&packer, buffer, msgpack_sbuffer_write);
    msgpack_pack_array(&packer, PIECE_PARTS);
    pack_raw(&packer, &layout, sizeof layout);
    pack_raw(&packer, counts, sizeof *counts);
    msgpack_pack_array(&packer, whole ? pool->windows.count : 0);
    for (uint32_t i = 0; whole && i < pool->windows.count; i++)
        msgpack_pack_uint64(&packer, pool->windows.closed[i]->id);
    pack_window(&packer, pool->merge.open, !whole);
    kept_workers_pack(&packer, pool, whole);
    pack_raw(&packer, actions->gone, whole ? 0 : actions->gone_count * sizeof *actions->gone);
    if (whole)
        pack_all(&packer, actions);
    else
        pack_touched(&packer, actions);
}

void piece_commit(struct pool *pool, bool whole)
{
    window_commit(pool->merge.open);
    actions_commit(&pool->merge.actions, whole);
    kept_workers_commit(pool);
}

int piece_open(struct piece *piece, const char *data, size_t bytes)
{
    struct layout there;
    if (!pack_open(&piece->reader, data, bytes, PIECE_PARTS))
        return fault(EBADMSG, "a piece of the checkpoint is no such thing");
    const msgpack_object *part = piece->reader.part;
    if (!pack_struct(&part[PART_LAYOUT], &there, sizeof there) || memcmp(&there, &layout, sizeof layout) != 0)
        return fault(EBADMSG, "the checkpoint is of another version");
    if (!pack_struct(&part[PART_COUNTS], &piece->counts, sizeof piece->counts) ||
        part[PART_WINDOWS].type != MSGPACK_OBJECT_ARRAY || part[PART_WINDOWS].via.array.size > WINDOWS_MOST ||
        part[PART_WORKERS].type != MSGPACK_OBJECT_ARRAY || part[PART_ACTIONS].type != MSGPACK_OBJECT_ARRAY ||
        part[PART_ACTIONS].via.array.size % ACTION_PARTS != 0)
        return fault(EBADMSG, "the checkpoint does not add up");
    return 0;
}

void piece_close(struct piece *piece)
{
    pack_close(&piece->reader);
}

uint32_t piece_windows(const struct piece *piece, uint64_t id[WINDOWS_MOST])
{
    const msgpack_object *list = &piece->reader.part[PART_WINDOWS];
    for (uint32_t i = 0; i < list->via.array.size; i++)
        id[i] = list->via.array.ptr[i].type == MSGPACK_OBJECT_POSITIVE_INTEGER
                    ? list->via.array.ptr[i].via.u64
                    : 0;
    return list->via.array.size;
}

int piece_apply(struct pool *pool, const struct piece *piece)
{
    const msgpack_object *part = piece->reader.part;
    pool->next_window = piece->counts.next_window;
    pool->next_number = piece->counts.next_number;
    pool->told_until_ns = piece->counts.told_until_ns;
    pool->merge.round = piece->counts.round;
    pool->ever = piece->counts.ever;
    if (!unpack_into_window(pool->merge.open, &part[PART_OPEN_WINDOW]))
        return fault(EBADMSG, "its open window does not add up");
    if (!kept_workers_apply(pool, &part[PART_WORKERS]))
        return fault(EBADMSG, "its workers do not add up");
    if (!apply_gone(&pool->merge.actions, &part[PART_GONE]) ||
        !apply_actions(&pool->merge, &part[PART_ACTIONS]))
        return fault(EBADMSG, "its open actions do not add up");
    return 0;
}

bool piece_fits(const struct pool *pool, const struct window *window)
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
