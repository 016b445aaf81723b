/* Records become windows: see merge.h. */
#include "aggregator/merge.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shm/fault.h"

#define SLOW_CLEARLY 1.125 /* times the 95th percentile: most of what is just beyond it is about to end */

int merge_open(struct merge *merge, uint64_t now_ns, uint64_t now_real_ns)
{
    memset(merge, 0, sizeof *merge);
    actions_open(&merge->actions);
    int rc = names_open(&merge->types, MERGE_TYPES_MOST, MERGE_NAMES_BYTES, "(other)");
    if (rc == 0)
        rc = names_open(&merge->texts, MERGE_NAMES_MOST, MERGE_NAMES_BYTES, "(other)");
    if (rc == 0)
        rc = names_open(&merge->instructions, MERGE_NAMES_MOST, MERGE_NAMES_BYTES, "(other)");
    if (rc == 0)
        rc = stacks_open(&merge->stacks, MERGE_STACKS_MOST);
    if (rc == 0 && (merge->open = window_new(now_ns, now_real_ns)) == NULL)
        rc = fault(ENOMEM, "window");
    if (rc != 0)
        merge_close(merge);
    return rc;
}

void merge_close(struct merge *merge)
{
    names_close(&merge->types);
    names_close(&merge->texts);
    names_close(&merge->instructions);
    stacks_close(&merge->stacks);
    actions_close(&merge->actions);
    cluster_close(&merge->cluster);
    window_put(merge->open);
    for (int i = 0; i < MERGE_TYPES_MOST; i++)
        free(merge->recent[i]);
    memset(merge, 0, sizeof *merge);
}

/* ---- telling slow from typical ----------------------------------------------------------------------- */

static double recent_quantile(const struct recent_latency *recent, double q)
{
    double wanted = q * recent->total, before = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        if (recent->bucket[i] > 0 && before + recent->bucket[i] >= wanted) {
            double low = (double)histogram_lower_ns(i), high = (double)histogram_lower_ns(i + 1);
            return low + (high - low) * (wanted - before) / recent->bucket[i];
        }
        before += recent->bucket[i];
    }
    return 0;
}

/* The type's latencies, if there are so many. */
static struct recent_latency *recent_of(struct merge *merge, uint32_t type, float least)
{
    struct recent_latency *recent = type < MERGE_TYPES_MOST ? merge->recent[type] : NULL;
    if (recent == NULL || recent->total < least)
        return NULL;
    if (recent->stale) {
        recent->median_ns = recent_quantile(recent, 0.5);
        recent->p95_ns = recent_quantile(recent, 0.95);
        recent->stale = false;
    }
    return recent;
}

uint64_t merge_slow_after(struct merge *merge, uint32_t type, uint64_t interval_ns, double *beyond)
{
    const struct recent_latency *recent = recent_of(merge, type, MERGE_SLOW_FROM);
    if (recent == NULL)
        return 0;
    double after_ns = fmax(SLOW_CLEARLY * recent->p95_ns, (double)interval_ns), above = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        if ((double)histogram_lower_ns(i) >= after_ns)
            above += (double)recent->bucket[i];
    *beyond = above / (double)recent->total;
    return (uint64_t)after_ns;
}

static enum profile_class class_of(struct merge *merge, uint32_t type, uint64_t latency_ns)
{
    const struct recent_latency *recent = recent_of(merge, type, MERGE_CLASSED_FROM);
    if (recent == NULL)
        return CLASS_NONE;
    if ((double)latency_ns >= recent->p95_ns)
        return CLASS_SLOW;
    return (double)latency_ns <= recent->median_ns ? CLASS_TYPICAL : CLASS_NONE;
}

void merge_fade(struct merge *merge)
{
    for (int i = 0; i < MERGE_TYPES_MOST; i++) {
        struct recent_latency *recent = merge->recent[i];
        if (recent == NULL || recent->total < 2 * MERGE_CLASSED_FROM)
            continue;
        recent->total = 0;
        for (int b = 0; b < HISTOGRAM_BUCKETS; b++)
            recent->total += recent->bucket[b] *= 0.95f;
        recent->stale = true;
    }
}

static void note_latency(struct merge *merge, uint32_t type, uint32_t bucket, uint64_t count)
{
    if (type >= MERGE_TYPES_MOST)
        return;
    struct recent_latency **recent = &merge->recent[type];
    if (*recent == NULL && (*recent = calloc(1, sizeof **recent)) == NULL)
        return;
    (*recent)->bucket[bucket] += (float)count;
    (*recent)->total += (float)count;
    (*recent)->stale = true;
}

/* ---- counted totals ---------------------------------------------------------------------------------- */

struct type_totals *merge_count(struct merge *merge, uint32_t type, const struct merge_count *count)
{
    struct type_totals *totals = profile_type(&merge->open->profile, type);
    if (totals == NULL)
        return NULL;
    if (type < MERGE_TYPES_MOST)
        merge->ended[type] += count->count;
    totals->count += count->count;
    totals->errors += count->errors;
    totals->profiled += count->profiled;
    totals->latency_sum_ns += count->latency_sum_ns;
    for (int i = 0; i < DENIALS; i++)
        totals->denied[i] += count->denied[i];
    if (totals->latency_max_ns < count->latency_max_ns)
        totals->latency_max_ns = count->latency_max_ns;
    return totals;
}

void merge_bucket(struct merge *merge, struct type_totals *totals, uint32_t bucket, uint64_t count)
{
    if (histogram_add(&totals->histogram, bucket, count) == 0)
        note_latency(merge, totals->type, bucket, count);
}

void merge_recall(struct merge *merge, const struct type_totals *totals)
{
    for (uint32_t i = 0; i < totals->histogram.used; i++)
        note_latency(merge, totals->type, totals->histogram.entry[i].bucket,
                     totals->histogram.entry[i].count);
}

/* ---- actions and samples ----------------------------------------------------------------------------- */

/* A sample that is not told together with others of its action stands alone. */
static void add_alone(struct merge *merge, uint32_t type, double weight, const struct profile_sample *sample)
{
    struct profile *profile = &merge->open->profile;
    struct type_totals *totals = profile_type(profile, type);
    struct profile_action action = {.weight = {weight}, .together = 1, .all_ns = {sample->wall_ns}};
    struct profile_sample alone = *sample;
    double wall_ns[PROFILE_PARTS][SAMPLE_STATES] = {0}, squares[PROFILE_PARTS][SAMPLE_STATES] = {0};
    if (totals == NULL || weight <= 0)
        return;
    alone.part = PART_FIRST;
    alone.line_ns[PART_FIRST] = wall_ns[PART_FIRST][sample->state] = sample->wall_ns;
    squares[PART_FIRST][sample->state] = sample->wall_ns * sample->wall_ns / 1e18;
    profile_add_states(totals, &action, wall_ns, squares);
    profile_add_sample(profile, type, &action, &alone);
}

/* From when on others are sampled that were not admitted at their begin. */
static uint64_t later_from(const struct record_begin *begin)
{
    return begin->late_after_us != 0 ? begin->time_ns + begin->late_after_us * UINT64_C(1000) : UINT64_MAX;
}

static double weight_of(uint32_t probability)
{
    return 4294967296.0 / ((double)probability + 1.0);
}

static double weight_in(const struct record_begin *begin, enum profile_part part)
{
    if (part == PART_LATER)
        return weight_of(begin->late_probability);
    return begin->header.flags & BEGIN_CANDIDATE ? 0 : merge_weight(begin);
}

/* What a sample of the action that was taken at that time stands for. */
static double weight_at(const struct record_begin *begin, uint64_t time_ns)
{
    return weight_in(begin, time_ns >= later_from(begin) ? PART_LATER : PART_FIRST);
}

static struct profile_sample profile_sample_of(const struct held_sample *held)
{
    return (struct profile_sample){
        .stack = held->stack,
        .state = held->state,
        .wall_ns = (double)held->wall_ns,
        .cpu_ns = (double)held->cpu_ns,
    };
}

/* Put what a family holds into the types at once, unclassed; its later samples will go there directly. */
static void fold_family(struct merge *merge, uint32_t root)
{
    struct actions *actions = &merge->actions;
    uint32_t index = root;
    while (index != ACTIONS_NONE) {
        struct action *member = &actions->action[index];
        for (uint32_t s = member->first_sample; s != ACTIONS_NONE; s = actions->sample[s].next) {
            struct profile_sample sample = profile_sample_of(&actions->sample[s]);
            for (uint32_t at = index; at != ACTIONS_NONE; at = actions_enclosing(actions, at))
                add_alone(merge, actions->action[at].type,
                          weight_at(&actions->action[at].begin, actions->sample[s].time_ns), &sample);
        }
        actions_drop_samples(actions, index);
        member->folded = true;
        actions_touch(actions, index);
        index = index == root ? member->family : member->sibling;
    }
    merge->open->sums.folded++;
}

int merge_begin(struct merge *merge, uint32_t worker, uint32_t type, const struct record_begin *begin)
{
    struct actions *actions = &merge->actions;
    if (begin->action_serial == 0 || actions_find(actions, worker, begin->action_serial) != ACTIONS_NONE)
        return fault(EPROTO, "action %llu begins twice", (unsigned long long)begin->action_serial);
    if (actions_begin(actions, worker, type, begin) != ACTIONS_NONE)
        return 0;
    /* No room: the oldest has probably lost its end. */
    if (actions->oldest != ACTIONS_NONE) {
        fold_family(merge, actions->oldest);
        merge->open->sums.unfinished++;
        actions_forget_root(actions, actions->oldest);
    }
    if (actions_begin(actions, worker, type, begin) == ACTIONS_NONE)
        merge->open->sums.unfinished++;
    return 0;
}

void merge_end(struct merge *merge, uint32_t worker, uint32_t type, const struct record_end *end)
{
    uint32_t index = actions_find(&merge->actions, worker, end->action_serial);
    if (index == ACTIONS_NONE || merge->actions.action[index].ended)
        return; /* it was forgotten for want of room */
    struct action *action = &merge->actions.action[index];
    action->ended = true;
    action->ended_round = merge->round;
    action->end = *end;
    action->type = type;
    merge->actions.ended++;
    actions_touch(&merge->actions, index);
}

void merge_message(struct merge *merge, uint32_t worker, const struct record_message *message,
                   const char *text)
{
    struct actions *actions = &merge->actions;
    uint32_t index = actions_find(actions, worker, message->action_serial);
    /* A root that began inside an action whose story is lost makes no message of its own. */
    if (index == ACTIONS_NONE || actions->action[actions->action[index].root].begin.parent_serial != 0)
        merge->open->sums.late++;
    else if (!actions_hold_message(actions, index, message, text))
        merge->open->sums.dropped++;
}

static void add_outside(struct merge *merge, uint32_t stack, const struct record_sample *sample)
{
    static const char name[] = "(outside any action)";
    if (merge->outside == 0)
        merge->outside = names_intern(&merge->types, name, sizeof name - 1);
    struct profile_sample alone = {
        .stack = stack,
        .state = sample->state,
        .wall_ns = (double)sample->wall_ns,
        .cpu_ns = (double)sample->cpu_ns,
    };
    add_alone(merge, merge->outside, 1, &alone);
}

void merge_sample(struct merge *merge, uint32_t worker, uint32_t stack, const struct record_sample *sample)
{
    struct actions *actions = &merge->actions;
    merge->open->sums.samples++;
    merge->open->sums.torn += (sample->header.flags & SAMPLE_TORN) != 0;
    if (stack == 0) {
        static const char name[] = "(unreadable)";
        if (merge->unreadable == 0)
            merge->unreadable =
                stacks_child(&merge->stacks, 0, names_intern(&merge->instructions, name, sizeof name - 1));
        stack = merge->unreadable;
    }
    if (sample->action_serial == 0) {
        add_outside(merge, stack, sample);
        return;
    }
    uint32_t index = actions_find(actions, worker, sample->action_serial);
    if (index == ACTIONS_NONE) {
        merge->open->sums.late++;
        return;
    }
    const struct record_begin *begin = &actions->action[index].begin;
    if ((begin->header.flags & BEGIN_CANDIDATE) && sample->time_ns < later_from(begin))
        return; /* its thread was looked at for another action */
    if (!actions->action[index].folded) {
        if (actions_hold(actions, index, sample, stack))
            return;
        /* No room: the oldest family that holds anything gives way, in the end our own. */
        for (uint32_t root; (root = actions_oldest_unfolded(actions)) != ACTIONS_NONE;) {
            fold_family(merge, root);
            if (actions->action[index].folded || actions_hold(actions, index, sample, stack))
                break;
        }
        if (!actions->action[index].folded)
            return;
    }
    struct profile_sample told = {
        .stack = stack,
        .state = sample->state,
        .wall_ns = (double)sample->wall_ns,
        .cpu_ns = (double)sample->cpu_ns,
    };
    for (uint32_t at = index; at != ACTIONS_NONE; at = actions_enclosing(actions, at))
        add_alone(merge, actions->action[at].type, weight_at(&actions->action[at].begin, sample->time_ns),
                  &told);
}

/*
 * Actions of one type inside one root were drawn together, and as a rule are alike. The k-th of them adds
 * 2k - 1 times its square: so n that are quite alike add up to n², which is the square of their sum. Where
 * they differ that is too much: the error of nested actions is rather overstated.
 */
static double drawn_together(struct merge *merge, const struct action *action)
{
    const struct action *root = &merge->actions.action[action->root];
    if (action == root || action->type >= MERGE_TYPES_MOST)
        return 1;
    uint32_t before = merge->settled[action->type]++ + (root->type == action->type);
    return 2.0 * before + 1;
}

static void recount_settled(struct merge *merge, uint32_t root)
{
    const struct actions *actions = &merge->actions;
    memset(merge->settled, 0, sizeof merge->settled);
    for (uint32_t at = actions->action[root].family; at != ACTIONS_NONE; at = actions->action[at].sibling)
        if (actions->action[at].closed && actions->action[at].type < MERGE_TYPES_MOST)
            merge->settled[actions->action[at].type]++;
}

/* Put an ended action into its type. */
static void settle(struct merge *merge, const struct action *action)
{
    struct profile *profile = &merge->open->profile;
    struct cluster *cluster = &merge->cluster;
    struct type_totals *totals = profile_type(profile, action->type);
    const struct record_end *end = &action->end;
    if (totals == NULL)
        return;
    const bool candidate = action->begin.header.flags & BEGIN_CANDIDATE;
    const uint64_t later_ns = later_from(&action->begin);
    struct profile_action facts = {
        .weight = {weight_in(&action->begin, PART_FIRST), weight_in(&action->begin, PART_LATER)},
        .together = drawn_together(merge, action),
        .class = class_of(merge, action->type, end->latency_ns),
    };
    if (candidate)
        profile_add_late(totals, &facts);
    else
        profile_add_end(totals, &facts, end->latency_ns,
                        end->header.flags & END_HAS_RUN_DELAY ? &end->run_delay_ns : NULL,
                        end->cpu_ns != 0 ? &end->cpu_ns : NULL);
    if (action->first_sample == ACTIONS_NONE)
        return;
    cluster_sum(cluster, &merge->actions, action->first_sample, later_ns, &merge->stacks,
                names_count(&merge->instructions));
    memcpy(facts.all_ns, cluster->all_ns, sizeof facts.all_ns);
    profile_add_states(totals, &facts, cluster->state_ns, cluster->squares);
    for (uint32_t s = action->first_sample; s != ACTIONS_NONE; s = merge->actions.sample[s].next) {
        const struct held_sample *held = &merge->actions.sample[s];
        struct profile_sample sample = profile_sample_of(held);
        sample.part = held->time_ns >= later_ns ? PART_LATER : PART_FIRST;
        cluster_line_ns(cluster, &merge->stacks, sample.stack, sample.line_ns);
        profile_add_sample(profile, action->type, &facts, &sample);
    }
}

/* It was a candidate for late admission, and ended before, or there was no token for it. */
static bool was_never_admitted(const struct action *action)
{
    return (action->begin.header.flags & BEGIN_CANDIDATE) && !(action->end.header.flags & END_LATE);
}

static bool due(const struct action *action, uint64_t before_round)
{
#ifdef POM_BREAK_CLOSE_EARLY
    before_round++;
#endif
    return action->ended && !action->closed && action->ended_round < before_round;
}

/* Nested ones first, the innermost (begun last) before what encloses it, so that samples pass outwards. */
static void close_family(struct merge *merge, uint32_t root, uint64_t before_round)
{
    struct actions *actions = &merge->actions;
    uint32_t due_members[ACTIONS_NESTED_TOLD], count;
    if (actions->action[root].family != ACTIONS_NONE)
        recount_settled(merge, root);
    do {
        count = 0;
        for (uint32_t at = actions->action[root].family; at != ACTIONS_NONE; at = actions->action[at].sibling)
            if (due(&actions->action[at], before_round)) {
                /* Past this many the oldest ones wait for the next turn of the loop. */
                if (count == ACTIONS_NESTED_TOLD) {
                    memmove(due_members, due_members + 1, sizeof due_members - sizeof *due_members);
                    count--;
                }
                due_members[count++] = at;
            }
        for (uint32_t i = count; i-- > 0;) {
            settle(merge, &actions->action[due_members[i]]);
            actions_close_nested(actions, due_members[i]);
        }
    } while (count == ACTIONS_NESTED_TOLD);
    if (!due(&actions->action[root], before_round))
        return;
    const struct action *action = &actions->action[root];
    if (!was_never_admitted(action))
        settle(merge, action);
    if (merge->on_root != NULL && action->begin.parent_serial == 0 &&
        !(action->begin.header.flags & BEGIN_CANDIDATE))
        merge->on_root(merge, root, merge->context);
    actions_forget_root(actions, root);
}

void merge_close_ended(struct merge *merge, uint64_t before_round)
{
    struct actions *actions = &merge->actions;
    for (uint32_t root = actions->oldest, newer; root != ACTIONS_NONE && actions->ended != 0; root = newer) {
        newer = actions->action[root].newer;
        close_family(merge, root, before_round);
    }
}

void merge_close_worker(struct merge *merge, uint32_t worker)
{
    struct actions *actions = &merge->actions;
    for (uint32_t root = actions->oldest, newer; root != ACTIONS_NONE && actions->ended != 0; root = newer) {
        newer = actions->action[root].newer;
        if (actions->action[root].worker == worker)
            close_family(merge, root, merge->round + 1);
    }
}

void merge_forget_worker(struct merge *merge, uint32_t worker)
{
    struct actions *actions = &merge->actions;
    for (uint32_t root = actions->oldest, newer; root != ACTIONS_NONE; root = newer) {
        newer = actions->action[root].newer;
        if (actions->action[root].worker != worker)
            continue;
        merge->open->sums.unfinished++;
        for (uint32_t at = actions->action[root].family, next; at != ACTIONS_NONE; at = next) {
            next = actions->action[at].sibling;
            if (!actions->action[at].closed) {
                merge->open->sums.unfinished++;
                actions_close_nested(actions, at);
            }
        }
        actions_forget_root(actions, root);
    }
}
