/* Open actions and their samples: see actions.h. */
#include "aggregator/actions.h"

#include <stdlib.h>
#include <string.h>

void actions_open(struct actions *actions)
{
    memset(actions, 0, sizeof *actions);
    actions->actions_free = actions->samples_free = ACTIONS_NONE;
    actions->oldest = actions->newest = actions->unfolded = ACTIONS_NONE;
    for (int i = 0; i < ACTIONS_BUCKETS; i++)
        actions->bucket[i] = ACTIONS_NONE;
}

void actions_close(struct actions *actions)
{
    for (uint32_t i = 0; i < actions->actions_high; i++)
        messages_clear(&actions->action[i].messages);
    free(actions->action);
    free(actions->sample);
    free(actions->gone);
    free(actions->touched);
    memset(actions, 0, sizeof *actions);
}

/* ---- what changed since the last checkpoint ----------------------------------------------------------- */

/* Room for one more in a list. Where there is none the next checkpoint has to tell of everything. */
static void *roomier(struct actions *actions, void *list, uint32_t count, uint32_t *room, size_t each,
                     uint32_t most)
{
    if (actions->untold || count < *room)
        return actions->untold ? NULL : list;
    uint32_t more = *room == 0 ? 64 : *room * 2;
    void *grown = count < most ? realloc(list, more * each) : NULL;
    if (grown != NULL)
        *room = more;
    else
        actions->untold = true;
    return grown;
}

static void note_gone(struct actions *actions, const struct action *action)
{
    if (!action->kept)
        return;
    struct action_gone *gone =
        roomier(actions, actions->gone, actions->gone_count, &actions->gone_room, sizeof *gone, ACTIONS_MOST);
    if (gone == NULL)
        return;
    actions->gone = gone;
    gone[actions->gone_count++] =
        (struct action_gone){.serial = action->begin.action_serial, .worker = action->worker};
}

/* It got samples, if nothing more. */
static void note_touched(struct actions *actions, uint32_t index)
{
    struct action *action = &actions->action[index];
    if (action->touched)
        return;
    struct action_touched *touched = roomier(actions, actions->touched, actions->touched_count,
                                             &actions->touched_room, sizeof *touched, 4 * ACTIONS_MOST);
    if (touched == NULL)
        return;
    actions->touched = touched;
    touched[actions->touched_count++] = (struct action_touched){.stamp = action->stamp, .index = index};
    action->touched = true;
}

void actions_touch(struct actions *actions, uint32_t index)
{
    actions->action[index].changed = true;
    note_touched(actions, index);
}

uint32_t actions_touched(const struct actions *actions, uint32_t i)
{
    const struct action_touched *note = &actions->touched[i];
    const struct action *action = &actions->action[note->index];
    /* Its place may have become another's. */
    return action->used && !action->closed && action->stamp == note->stamp ? note->index : ACTIONS_NONE;
}

uint32_t actions_first_fresh(const struct actions *actions, uint32_t index)
{
    const struct action *action = &actions->action[index];
    return action->last_kept == ACTIONS_NONE ? action->first_sample : actions->sample[action->last_kept].next;
}

static void commit_one(struct action *action)
{
    action->kept = true;
    action->touched = action->changed = false;
    action->last_kept = action->last_sample;
    action->messages.last_kept = action->messages.last;
}

void actions_commit(struct actions *actions, bool whole)
{
    for (uint32_t i = 0; i < actions->touched_count; i++) {
        uint32_t index = actions_touched(actions, i);
        if (index != ACTIONS_NONE)
            commit_one(&actions->action[index]);
    }
    actions->touched_count = actions->gone_count = 0;
    if (!whole)
        return;
    actions->untold = false;
    for (uint32_t root = actions->oldest; root != ACTIONS_NONE; root = actions->action[root].newer) {
        commit_one(&actions->action[root]);
        for (uint32_t at = actions->action[root].family; at != ACTIONS_NONE; at = actions->action[at].sibling)
            commit_one(&actions->action[at]);
    }
}

/* ---- actions ------------------------------------------------------------------------------------------ */

static uint32_t *bucket_of(struct actions *actions, uint32_t worker, uint64_t serial)
{
    /* Serials of different workers are alike, so the worker must tell too. */
    uint64_t h = (serial + ((uint64_t)worker << 40)) * UINT64_C(0x9e3779b97f4a7c15);
    return &actions->bucket[(h ^ (h >> 29)) >> 32 & (ACTIONS_BUCKETS - 1)];
}

uint32_t actions_find(const struct actions *actions, uint32_t worker, uint64_t serial)
{
    uint32_t i = *bucket_of((struct actions *)actions, worker, serial);
    while (i != ACTIONS_NONE &&
           (actions->action[i].worker != worker || actions->action[i].begin.action_serial != serial))
        i = actions->action[i].bucket_next;
    return i;
}

static void unhash(struct actions *actions, uint32_t index)
{
    struct action *action = &actions->action[index];
    uint32_t *link = bucket_of(actions, action->worker, action->begin.action_serial);
    while (*link != ACTIONS_NONE && *link != index)
        link = &actions->action[*link].bucket_next;
    if (*link == index)
        *link = action->bucket_next;
}

static void link_root(struct actions *actions, uint32_t index)
{
    struct action *action = &actions->action[index];
    action->parent = ACTIONS_NONE;
    action->root = index;
    action->children = 0;
    action->older = actions->newest;
    action->newer = ACTIONS_NONE;
    if (actions->newest != ACTIONS_NONE)
        actions->action[actions->newest].newer = index;
    else
        actions->oldest = index;
    actions->newest = index;
    if (actions->unfolded == ACTIONS_NONE)
        actions->unfolded = index;
}

static void unlink_root(struct actions *actions, uint32_t index)
{
    struct action *action = &actions->action[index];
    if (actions->unfolded == index)
        actions->unfolded = action->newer;
    if (action->older != ACTIONS_NONE)
        actions->action[action->older].newer = action->newer;
    else
        actions->oldest = action->newer;
    if (action->newer != ACTIONS_NONE)
        actions->action[action->newer].older = action->older;
    else
        actions->newest = action->older;
}

uint32_t actions_oldest_unfolded(struct actions *actions)
{
    /* It only moves on, so that a drain in which every sample needs room does not walk all roots for each. */
    while (actions->unfolded != ACTIONS_NONE && actions->action[actions->unfolded].folded)
        actions->unfolded = actions->action[actions->unfolded].newer;
    return actions->unfolded;
}

static uint32_t take_action(struct actions *actions)
{
    if (actions->actions_free != ACTIONS_NONE) {
        uint32_t index = actions->actions_free;
        actions->actions_free = actions->action[index].sibling;
        return index;
    }
    if (actions->actions_high == actions->actions_room) {
        uint32_t room = actions->actions_room == 0 ? 64 : actions->actions_room * 2;
        struct action *grown = room <= ACTIONS_MOST ? realloc(actions->action, room * sizeof *grown) : NULL;
        if (grown == NULL)
            return ACTIONS_NONE;
        actions->action = grown;
        actions->actions_room = room;
    }
    return actions->actions_high++;
}

static void give_back(struct actions *actions, uint32_t index)
{
    struct action *action = &actions->action[index];
    action->used = false;
    action->sibling = actions->actions_free;
    actions->actions_free = index;
    actions->actions_used--;
}

static void join_family(struct actions *actions, uint32_t index, uint32_t parent)
{
    struct action *action = &actions->action[index];
    struct action *root = &actions->action[actions->action[parent].root];
    action->parent = parent;
    action->root = actions->action[parent].root;
    action->folded = root->folded;
    action->elder = root->family_last;
    if (root->family_last == ACTIONS_NONE)
        root->family = index;
    else
        actions->action[root->family_last].sibling = index;
    root->family_last = index;
    actions->action[parent].children++;
}

uint32_t actions_begin(struct actions *actions, uint32_t worker, uint32_t type,
                       const struct record_begin *begin)
{
    uint32_t index = take_action(actions);
    if (index == ACTIONS_NONE)
        return index;
    struct action *action = &actions->action[index];
    *action = (struct action){
        .begin = *begin,
        .worker = worker,
        .type = type,
        .family = ACTIONS_NONE,
        .family_last = ACTIONS_NONE,
        .sibling = ACTIONS_NONE,
        .elder = ACTIONS_NONE,
        .older = ACTIONS_NONE,
        .newer = ACTIONS_NONE,
        .first_sample = ACTIONS_NONE,
        .last_sample = ACTIONS_NONE,
        .last_kept = ACTIONS_NONE,
        .stamp = ++actions->stamps,
        .used = true,
    };
    actions->actions_used++;
    actions_touch(actions, index);
    uint32_t parent =
        begin->parent_serial != 0 ? actions_find(actions, worker, begin->parent_serial) : ACTIONS_NONE;
    if (parent == ACTIONS_NONE) {
        link_root(actions, index);
    } else {
        join_family(actions, index, parent);
    }
    uint32_t *bucket = bucket_of(actions, worker, begin->action_serial);
    action->bucket_next = *bucket;
    *bucket = index;
    return index;
}

static uint32_t take_sample(struct actions *actions)
{
    if (actions->samples_free != ACTIONS_NONE) {
        uint32_t index = actions->samples_free;
        actions->samples_free = actions->sample[index].next;
        return index;
    }
    if (actions->samples_high == actions->samples_room) {
        uint32_t room = actions->samples_room == 0 ? 256 : actions->samples_room * 2;
        struct held_sample *grown =
            room <= ACTIONS_SAMPLES_MOST ? realloc(actions->sample, room * sizeof *grown) : NULL;
        if (grown == NULL)
            return ACTIONS_NONE;
        actions->sample = grown;
        actions->samples_room = room;
    }
    return actions->samples_high++;
}

bool actions_hold(struct actions *actions, uint32_t index, const struct record_sample *sample, uint32_t stack)
{
    uint32_t at = take_sample(actions);
    if (at == ACTIONS_NONE)
        return false;
    actions->samples_used++;
    actions->sample[at] = (struct held_sample){
        .time_ns = sample->time_ns,
        .wall_ns = sample->wall_ns,
        .cpu_ns = sample->cpu_ns,
        .serial = sample->action_serial,
        .stack = stack,
        .state = sample->state,
        .next = ACTIONS_NONE,
    };
    struct action *action = &actions->action[index];
    if (action->last_sample == ACTIONS_NONE)
        action->first_sample = at;
    else
        actions->sample[action->last_sample].next = at;
    action->last_sample = at;
    action->samples++;
    note_touched(actions, index);
    return true;
}

bool actions_hold_message(struct actions *actions, uint32_t index, const struct record_message *message,
                          const char *text)
{
    struct action *root = &actions->action[actions->action[index].root];
    if (actions->messages_bytes + message->length >= MESSAGES_BYTES_MOST)
        return false;
    size_t bytes = messages_add(&root->messages, message, text);
    actions->messages_bytes += bytes;
    if (bytes != 0)
        note_touched(actions, actions->action[index].root);
    return bytes != 0;
}

uint32_t actions_enclosing(const struct actions *actions, uint32_t index)
{
    do
        index = actions->action[index].parent;
    while (index != ACTIONS_NONE && actions->action[index].closed);
    return index;
}

void actions_drop_samples(struct actions *actions, uint32_t index)
{
    struct action *action = &actions->action[index];
    if (action->samples == 0)
        return;
    actions->sample[action->last_sample].next = actions->samples_free;
    actions->samples_free = action->first_sample;
    actions->samples_used -= action->samples;
    action->first_sample = action->last_sample = action->last_kept = ACTIONS_NONE;
    action->samples = 0;
}

/* A part of a list of samples. */
struct run {
    uint32_t first, last;
};

static struct run join(struct actions *actions, struct run a, struct run b)
{
    if (a.first == ACTIONS_NONE)
        return b;
    if (b.first == ACTIONS_NONE)
        return a;
    actions->sample[a.last].next = b.first;
    return (struct run){a.first, b.last};
}

static struct run kept_run(const struct action *action)
{
    bool none = action->last_kept == ACTIONS_NONE;
    return (struct run){none ? ACTIONS_NONE : action->first_sample, action->last_kept};
}

static struct run fresh_run(const struct actions *actions, uint32_t index)
{
    uint32_t first = actions_first_fresh(actions, index);
    return (struct run){first, first == ACTIONS_NONE ? ACTIONS_NONE : actions->action[index].last_sample};
}

static void pass_samples(struct actions *actions, uint32_t from_index, uint32_t to_index)
{
    struct action *from = &actions->action[from_index], *to = &actions->action[to_index];
    struct run fresh_from = fresh_run(actions, from_index), fresh_to = fresh_run(actions, to_index);
    struct run kept = join(actions, kept_run(to), kept_run(from));
    struct run all = join(actions, kept, join(actions, fresh_to, fresh_from));
    actions->sample[all.last].next = ACTIONS_NONE;
    to->first_sample = all.first;
    to->last_sample = all.last;
    to->last_kept = kept.last;
    to->samples += from->samples;
    from->first_sample = from->last_sample = from->last_kept = ACTIONS_NONE;
    from->samples = 0;
    if (fresh_from.first != ACTIONS_NONE)
        note_touched(actions, to_index);
}

static void leave_family(struct actions *actions, uint32_t index)
{
    const struct action *action = &actions->action[index];
    struct action *root = &actions->action[action->root];
    if (action->elder == ACTIONS_NONE)
        root->family = action->sibling;
    else
        actions->action[action->elder].sibling = action->sibling;
    if (action->sibling == ACTIONS_NONE)
        root->family_last = action->elder;
    else
        actions->action[action->sibling].elder = action->elder;
    actions->action[action->parent].children--;
}

void actions_close_nested(struct actions *actions, uint32_t index)
{
    struct action *action = &actions->action[index];
    uint32_t to = actions_enclosing(actions, index);
    note_gone(actions, action);
    unhash(actions, index);
    if (action->ended)
        actions->ended--;
    action->closed = true;
    if (to != ACTIONS_NONE && action->samples != 0)
        pass_samples(actions, index, to);
    else
        actions_drop_samples(actions, index);
    struct action *root = &actions->action[action->root];
    if (root->told < ACTIONS_NESTED_TOLD || action->children != 0) {
        root->told++; /* for the message; or those inside it need its place */
    } else {
        leave_family(actions, index);
        give_back(actions, index);
    }
}

void actions_forget_root(struct actions *actions, uint32_t index)
{
    struct action *root = &actions->action[index];
    note_gone(actions, root);
    unlink_root(actions, index);
    unhash(actions, index);
    if (root->ended)
        actions->ended--;
    actions_drop_samples(actions, index);
    actions->messages_bytes -= messages_clear(&root->messages);
    for (uint32_t at = root->family, next; at != ACTIONS_NONE; at = next) {
        struct action *member = &actions->action[at];
        next = member->sibling;
        member->sibling = member->elder = ACTIONS_NONE;
        if (member->closed)
            give_back(actions, at);
        else
            link_root(actions, at);
    }
    give_back(actions, index);
}
