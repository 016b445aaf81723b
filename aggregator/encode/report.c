/* The report object: see report.h. */
#include "aggregator/encode/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/budget.h"
#include "aggregator/encode/instant.h"
#include "aggregator/encode/lines.h"
#include "aggregator/encode/standard_error.h"
#include "aggregator/encode/tree.h"
#include "shm/rates.h"

/* How a type's wall time splits, in seconds. Unknown where nothing was sampled. */
struct split {
    bool known;
    double state[SAMPLE_STATES], runnable;
    double state_error[SAMPLE_STATES], runnable_error; /* NAN: not known */
    bool has_runnable;
    double scale;         /* sampled ns -> seconds */
    double waiting_share; /* of cpu and native that was runnable */
};

static double seconds(uint64_t ns)
{
    return (double)ns / 1e9;
}

static struct split split_of(const struct type_totals *totals, const struct standard_error *basis,
                             const struct cell *cell, uint32_t cells, double wall)
{
    struct split split = {0};
    double sampled = 0;
    for (uint32_t i = 0; i < cells; i++)
        for (int state = 0; state < SAMPLE_STATES; state++) {
            split.state[state] += cell[i].wall[state];
            sampled += cell[i].wall[state];
        }
    if (sampled > 0) {
        split.known = true;
        split.scale = wall / sampled;
        for (int state = 0; state < SAMPLE_STATES; state++)
            split.state_error[state] =
                wall * standard_error_state(basis, state, split.state[state] / sampled);
        for (int state = 0; state < SAMPLE_STATES; state++)
            split.state[state] *= split.scale;
    } else if (totals->ended > 0 && totals->cpu_latency > 0) {
        /* Too short to be sampled, but the thread's CPU clock was read. */
        double share = totals->cpu / totals->cpu_latency;
        split.known = true;
        split.state[STATE_CPU] = wall * (share < 1 ? share : 1);
        split.state[STATE_BLOCKED] = wall - split.state[STATE_CPU];
        split.state_error[STATE_CPU] = split.state_error[STATE_BLOCKED] = wall * standard_error_cpu(totals);
    }
    if (!split.known || totals->run_latency <= 0)
        return split;
    double waiting = wall * totals->run_delay / totals->run_latency;
    split.has_runnable = true;
    split.runnable_error = wall * standard_error_run_delay(totals);
    if (sampled <= 0) { /* a CPU clock, unlike a sample, does not count waiting for a core */
        split.runnable = waiting < split.state[STATE_BLOCKED] ? waiting : split.state[STATE_BLOCKED];
        split.state[STATE_BLOCKED] -= split.runnable;
        split.state_error[STATE_BLOCKED] = hypot(split.state_error[STATE_BLOCKED], split.runnable_error);
        return split;
    }
    double running = split.state[STATE_CPU] + split.state[STATE_NATIVE];
    split.runnable = waiting < running ? waiting : running;
    if (waiting > running) /* cut by what was sampled, it is no surer than that */
        split.runnable_error =
            hypot(split.runnable_error, hypot(split.state_error[STATE_CPU], split.state_error[STATE_NATIVE]));
    split.waiting_share = running > 0 ? split.runnable / running : 0;
    for (enum sample_state state = STATE_CPU; state <= STATE_NATIVE; state++) {
        /* What waited and what was sampled as running go together rather than apart: this is the larger. */
        double of_waiting = running > 0 ? split.state[state] / running * split.runnable_error : 0;
        split.state_error[state] = hypot((1 - split.waiting_share) * split.state_error[state], of_waiting);
        split.state[state] *= 1 - split.waiting_share;
    }
    return split;
}

static json_t *real_or_null(bool known, double value)
{
    return known && isfinite(value) ? json_real(value) : json_null();
}

/* Standard errors stand in an object `se` beside the figures that they are of, under the same keys. */
static void set_error(json_t *of, const char *key, double error)
{
    json_t *se = json_object_get(of, "se");
    if (se == NULL && json_object_set_new(of, "se", se = json_object()) != 0)
        return; /* `of` is none: a figure in it was no number */
    json_object_set_new(se, key, real_or_null(true, error));
}

static json_t *hot_row(const struct lines *lines, uint32_t instruction, const struct split *split,
                       const struct standard_error *basis, double wall)
{
    const struct line *line = &lines->line[instruction];
    double self = line->self_total * split->scale, share = wall > 0 ? self / wall : 0.0;
    double time = line->time * split->scale;
    const struct stack_spread *spread = &line->spread, *around = &line->around;
    struct product own = {spread->cross.shed - spread->apart.shed, spread->cross.kept - spread->apart.kept};
    double share_error = standard_error_share(basis, own, spread->cross, (double)spread->ticks, share);
    double time_error = standard_error_share(basis, around->cross, around->cross, (double)around->ticks,
                                             wall > 0 ? time / wall : 0.0);
    json_t *row =
        json_pack("{s:s,s:f,s:f,s:f,s:s,s:I}", "instruction",
                  names_text(&lines->merge->instructions, instruction), "self_time", self, "time", time,
                  "share", share, "state", lines_self_state(line), "samples", (json_int_t)line->samples);
    set_error(row, "self_time", wall * share_error);
    set_error(row, "time", wall * time_error);
    set_error(row, "share", share_error);
    json_object_set_new(row, "noise", json_boolean(standard_error_is_noise(share_error, share)));
    return row;
}

static json_t *hot_json(struct lines *lines, const struct split *split, const struct standard_error *basis,
                        double wall, uint32_t limit)
{
    json_t *hot = json_array();
    lines_by_self(lines);
    for (uint32_t i = 0; i < lines->used_count && i < limit; i++) {
        if (lines->line[lines->used[i]].self_total <= 0)
            break;
        json_array_append_new(hot, hot_row(lines, lines->used[i], split, basis, wall));
    }
    return hot;
}

static json_t *reason_row(const struct lines *lines, uint32_t instruction, const struct type_totals *totals)
{
    const struct line *line = &lines->line[instruction];
    double slow = line->slow_total / lines->slow_total, typical = line->typical / lines->typical_total;
    double slow_error =
        standard_error_at_most(totals->slow, (double)totals->spread.slow, lines->slow_total / 1e9, slow);
    double typical_error = standard_error_at_most(totals->typical, (double)totals->spread.typical,
                                                  lines->typical_total / 1e9, typical);
    json_t *row = json_pack("{s:s,s:f,s:f,s:s}", "instruction",
                            names_text(&lines->merge->instructions, instruction), "share_slow", slow,
                            "share_typical", typical, "state", lines_state(line->slow, SAMPLE_STATES));
    set_error(row, "share_slow", slow_error);
    set_error(row, "share_typical", typical_error);
    json_object_set_new(
        row, "noise",
        json_boolean(standard_error_is_noise(hypot(slow_error, typical_error), slow - typical)));
    return row;
}

static json_t *reasons_json(struct lines *lines, const struct type_totals *totals)
{
    json_t *reasons = json_array();
    if (totals->ended < REPORT_CLASSED_FROM || totals->slow == 0 || totals->typical == 0 ||
        lines->slow_total <= 0 || lines->typical_total <= 0)
        return reasons;
    lines_by_difference(lines);
    for (uint32_t i = 0; i < lines->used_count && i < REPORT_REASONS; i++) {
        if (lines_difference(lines, &lines->line[lines->used[i]]) < REPORT_LEAST_DIFFERENCE)
            break;
        json_array_append_new(reasons, reason_row(lines, lines->used[i], totals));
    }
    return reasons;
}

static json_t *latency_json(const struct type_totals *totals)
{
    const struct histogram *histogram = &totals->histogram;
    uint64_t max = totals->latency_max_ns;
    return json_pack("{s:f,s:f,s:f,s:f,s:f}", "mean",
                     totals->count != 0 ? seconds(totals->latency_sum_ns) / (double)totals->count : 0.0,
                     "p50", histogram_quantile(histogram, 0.5, max) / 1e9, "p90",
                     histogram_quantile(histogram, 0.9, max) / 1e9, "p99",
                     histogram_quantile(histogram, 0.99, max) / 1e9, "max", seconds(max));
}

static json_t *denied_json(const uint64_t denied[DENIALS])
{
    static const char *const reason[DENIALS] = {
        [DENIED_NO_RATES] = "no_aggregator", [DENIED_PAUSED] = "overhead",
        [DENIED_LOTTERY] = "lottery",        [DENIED_CAP] = "cap",
        [DENIED_LANE_FULL] = "lane_full",    [DENIED_NO_SLOT] = "no_slot",
    };
    json_t *json = json_object();
    for (int i = 0; i < DENIALS; i++)
        json_object_set_new(json, reason[i], json_integer((json_int_t)denied[i]));
    return json;
}

/* What is exact. */
static json_t *counts_json(const struct merge *merge, const struct type_totals *totals, double wall)
{
    return json_pack("{s:s,s:I,s:I,s:I,s:I,s:o,s:f}", "action_type", names_text(&merge->types, totals->type),
                     "count", (json_int_t)totals->count, "errors", (json_int_t)totals->errors, "profiled",
                     (json_int_t)totals->profiled, "profiled_late", (json_int_t)totals->late, "denied",
                     denied_json(totals->denied), "wall", wall);
}

static const char *const state_key[SAMPLE_STATES] = {"cpu", "native", "gil_wait", "blocked"};

/* A state's time, null where it is not known, and its error. */
static void set_time(json_t *action, const char *key, bool known, double time, double error)
{
    json_object_set_new(action, key, real_or_null(known, time));
    set_error(action, key, known ? error : NAN);
    if (known && time > 0 && standard_error_is_noise(error, time)) {
        json_t *noise = json_object_get(action, "noise");
        if (noise == NULL && json_object_set_new(action, "noise", noise = json_array()) != 0)
            return;
        json_array_append_new(noise, json_string(key));
    }
}

static json_t *action_json(const struct merge *merge, const struct type_totals *totals,
                           const struct cell *cell, uint32_t cells, struct lines *lines,
                           struct tree_names *names, const struct report_options *options)
{
    double wall = seconds(totals->latency_sum_ns);
    if (totals->count == 0) /* time outside any action has no counted latency: what was sampled is all */
        for (uint32_t i = 0; i < cells; i++)
            for (int state = 0; state < SAMPLE_STATES; state++)
                wall += cell[i].wall[state] / 1e9;
    struct standard_error basis = standard_error_of(totals, cell, cells);
    struct split split = split_of(totals, &basis, cell, cells, wall);
    uint64_t samples = 0;
    for (uint32_t i = 0; i < cells; i++)
        samples += cell[i].samples;
    lines_fill(lines, cell, cells, split.waiting_share);
    json_t *action = counts_json(merge, totals, wall);
    json_object_set_new(action, "latency", latency_json(totals));
    for (int state = 0; state < SAMPLE_STATES; state++)
        set_time(action, state_key[state], split.known, split.state[state], split.state_error[state]);
    set_time(action, "runnable", split.has_runnable, split.runnable, split.runnable_error);
    json_object_set_new(action, "samples", json_integer((json_int_t)samples));
    json_object_set_new(action, "hot", hot_json(lines, &split, &basis, wall, options->limit));
    json_object_set_new(action, "slow_because", reasons_json(lines, totals));
    if (options->stacks)
        json_object_set_new(action, "tree", tree_build(names, merge, cell, cells, split.scale));
    return action;
}

/* ---- all actions ------------------------------------------------------------------------------------- */

static int by_type(const void *a, const void *b)
{
    const struct cell *x = a, *y = b;
    if (x->type != y->type)
        return x->type < y->type ? -1 : 1;
    return x->stack < y->stack ? -1 : x->stack > y->stack;
}

static double wall_of(const json_t *action)
{
    return json_real_value(json_object_get(action, "wall"));
}

static int by_wall(const void *a, const void *b)
{
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    if (wall_of(x) != wall_of(y))
        return wall_of(x) < wall_of(y) ? 1 : -1;
    return strcmp(json_string_value(json_object_get(x, "action_type")),
                  json_string_value(json_object_get(y, "action_type")));
}

static bool fill_actions(json_t *report, const struct merge *merge, struct profile *profile,
                         const struct report_options *options)
{
    struct lines lines;
    struct tree_names names = {0};
    json_t **action = calloc(profile->types + 1, sizeof *action);
    if (action == NULL || lines_open(&lines, merge) != 0) {
        free(action);
        return false;
    }
    if (options->stacks && tree_names_open(&names, merge) != 0) {
        lines_close(&lines);
        free(action);
        return false;
    }
    /* From here on the cells are found by their order; the profile's own index is not used any more. */
    if (profile->cells != 0)
        qsort(profile->cell, profile->cells, sizeof *profile->cell, by_type);
    uint32_t count = 0;
    for (uint32_t i = 0; i < profile->types; i++) {
        const struct type_totals *totals = &profile->type[i];
        uint32_t low = 0, high = profile->cells;
        while (low < high) {
            uint32_t middle = (low + high) / 2;
            if (profile->cell[middle].type < totals->type)
                low = middle + 1;
            else
                high = middle;
        }
        uint32_t end = low;
        while (end < profile->cells && profile->cell[end].type == totals->type)
            end++;
        if ((totals->count == 0 && end == low) ||
            (options->action != NULL &&
             strcmp(options->action, names_text(&merge->types, totals->type)) != 0))
            continue;
        const struct cell *first = end != low ? &profile->cell[low] : NULL;
        json_t *json = options->counts_only
                           ? counts_json(merge, totals, seconds(totals->latency_sum_ns))
                           : action_json(merge, totals, first, end - low, &lines, &names, options);
        if (json != NULL)
            action[count++] = json;
    }
    qsort(action, count, sizeof *action, by_wall);
    json_t *list = json_array();
    for (uint32_t i = 0; i < count; i++)
        json_array_append_new(list, action[i]);
    json_object_set_new(report, "actions", list);
    if (options->stacks)
        json_object_set(report, "instructions", names.list);
    free(action);
    lines_close(&lines);
    if (options->stacks)
        tree_names_close(&names);
    return true;
}

/* ---- the head ---------------------------------------------------------------------------------------- */

json_t *report_overhead(const struct window_sums *sums, double budget)
{
    double ours = seconds(sums->sampler_cpu_ns + sums->hook_cpu_ns + sums->aggregator_cpu_ns);
    double workers = seconds(sums->worker_cpu_ns), least = BUDGET_FLOOR * seconds(sums->attached_ns);
    double against = workers > least ? workers : least;
    return json_pack("{s:f,s:f,s:f,s:f,s:f,s:f,s:f}", "ratio", against > 0 ? ours / against : 0.0, "budget",
                     budget, "sampler_cpu", seconds(sums->sampler_cpu_ns), "hook_cpu",
                     seconds(sums->hook_cpu_ns), "aggregator_cpu", seconds(sums->aggregator_cpu_ns),
                     "worker_cpu", workers, "attached_seconds", seconds(sums->attached_ns));
}

static void fill_head(json_t *report, const struct window *sum, const struct report_facts *facts)
{
    static const char *const granularity[] = {"file", "method", "line"};
    const struct window_sums *sums = &sum->sums;
    uint64_t shed = 0;
    for (int i = 0; i < DENIALS; i++)
        shed += sums->denied[i];
    json_object_set_new(report, "schema", json_string("profilomatic/report/1"));
    json_object_set_new(report, "source", json_string(facts->source));
    json_object_set_new(report, "window",
                        json_pack("{s:o,s:o,s:f}", "start", instant_json(sum->start_real_ns), "end",
                                  instant_json(sum->end_real_ns), "seconds",
                                  seconds(sum->end_ns - sum->start_ns)));
    json_object_set_new(report, "overhead", report_overhead(sums, facts->max_overhead));
    json_object_set_new(report, "actions_per_cycle",
                        json_pack("{s:I,s:f,s:I,s:I,s:I,s:o}", "cap", (json_int_t)facts->cap, "cycle_seconds",
                                  (double)facts->cycle_ms / 1e3, "admitted", (json_int_t)sums->admitted,
                                  "shed", (json_int_t)shed, "max_in_a_cycle",
                                  (json_int_t)facts->max_in_a_cycle, "denied", denied_json(sums->denied)));
    const struct {
        const char *key;
        uint64_t value;
    } counts[] = {
        {"workers", sum->workers},
        {"samples", sums->samples},
        {"dropped", sums->dropped},
        {"torn", sums->torn},
        {"unreadable", sums->unreadable},
        {"unattributed", sums->unattributed},
        {"late", sums->late},
        {"overflow", sums->overflow},
        {"unfinished", sums->unfinished},
        {"folded", sums->folded},
        {"quarantined", sums->quarantined},
        {"hooks", sums->hooks},
        {"uncounted", sums->uncounted},
        {"other", sums->other},
        {"coarse", sums->coarse},
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        json_object_set_new(report, counts[i].key, json_integer((json_int_t)counts[i].value));
    json_object_set_new(report, "interval", json_real(seconds(facts->interval_ns)));
    json_object_set_new(
        report, "granularity",
        json_string(granularity[facts->granularity <= GRANULARITY_LINE ? facts->granularity : 0]));
    json_object_set_new(report, "paused", json_boolean(facts->paused));
    json_object_set_new(report, "passthrough", json_boolean(facts->passthrough));
}

json_t *report_build(const struct merge *merge, const struct window_list *list,
                     const struct report_facts *facts, const struct report_options *options)
{
    const struct window *newest = list->count != 0 ? list->window[list->count - 1] : NULL;
    uint64_t end_ns = newest != NULL ? newest->end_ns : 0, from_ns = 0;
    if (options->seconds > 0 && options->seconds * 1e9 < (double)end_ns)
        from_ns = end_ns - (uint64_t)(options->seconds * 1e9);
    struct window *sum = NULL;
    for (uint32_t i = 0; i < list->count; i++) {
        const struct window *window = list->window[i];
        if (window->end_ns <= from_ns && window != newest)
            continue;
        if (sum == NULL)
            sum = window_copy(window);
        else if (window_merge(sum, window) != 0) {
            window_put(sum);
            sum = NULL;
        }
        if (sum == NULL)
            return NULL;
    }
    if (sum == NULL && (sum = window_new(0, 0)) == NULL)
        return NULL;
    json_t *report = json_object();
    fill_head(report, sum, facts);
    if (!fill_actions(report, merge, &sum->profile, options)) {
        json_decref(report);
        report = NULL;
    }
    window_put(sum);
    return report;
}
