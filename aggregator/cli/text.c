/* Reports for people: see text.h. */
#include "aggregator/cli/text.h"

#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    BAR = 20, /* characters of a full bar */
    SHOWN = 32,
    STATUS_TYPES = 10, /* of the most wall time, with what was profiled of them */
    FEW_SAMPLES = 3,   /* up to so many, a row says how many it rests on */
    DECISIONS = 5,     /* of the budget, the newest */
};

#define LEAST_SHARE 0.0005

/* A number under `key`; NAN where there is none. */
static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static double number_or_zero(const json_t *object, const char *key)
{
    double value = number(object, key);
    return isnan(value) ? 0 : value;
}

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value == NULL ? "" : value;
}

/* Names come from applications: no escape sequence of theirs reaches a terminal. */
static void print_name(FILE *out, const char *name)
{
    for (; *name != '\0'; name++)
        putc(iscntrl((unsigned char)*name) ? '?' : *name, out);
}

/* One of our own words, in what may be anybody's file. */
static const char *word(const json_t *object, const char *key)
{
    const char *value = text(object, key);
    for (const char *c = value; *c != '\0'; c++)
        if (!isascii((unsigned char)*c) || !isprint((unsigned char)*c))
            return "?";
    return value;
}

/* "210 ms": three digits and a unit. */
static const char *show_time(double seconds, char shown[SHOWN])
{
    static const struct {
        double from, scale;
        const char *unit;
    } units[] = {{1, 1, "s"}, {1e-3, 1e3, "ms"}, {0, 1e6, "us"}};
    unsigned u = 0;
    if (isnan(seconds))
        return strcpy(shown, "-");
    while (u < 2 && seconds < units[u].from * 0.9995)
        u++;
    double value = seconds * units[u].scale;
    int decimals = value >= 99.95 || value == 0 ? 0 : value >= 9.995 ? 1 : 2;
    snprintf(shown, SHOWN, "%.*f %s", decimals, value, units[u].unit);
    return shown;
}

static const char *show_percent(double ratio, char shown[SHOWN])
{
    if (isnan(ratio))
        return strcpy(shown, "-");
    snprintf(shown, SHOWN, "%.*f %%", ratio < 0.0995 ? 2 : 1, ratio * 100);
    return shown;
}

/* What 95 figures in 100 are off by at most, in points of a percentage of `whole`; nothing where a report
 * says nothing of it. */
static const char *show_error(const json_t *object, const char *key, double whole, char shown[SHOWN])
{
    const json_t *se = json_object_get(object, "se");
    double error = number(se, key) / whole * 196;
    shown[0] = '\0';
    if (json_object_get(se, key) != NULL)
        snprintf(shown, SHOWN, isnan(error) ? " +- ?" : " +- %.*f", error < 9.95 ? 1 : 0, error);
    return shown;
}

/* `seconds`: what the figures cover. The budget holds from 10 s after the start on, in windows of 10 s. */
static void print_overhead(FILE *out, const json_t *overhead, double seconds)
{
    char a[SHOWN], b[SHOWN], c[SHOWN], d[SHOWN], e[SHOWN], f[SHOWN];
    double ratio = number(overhead, "ratio"), budget = number(overhead, "budget");
    if (ratio > 0 || number_or_zero(overhead, "worker_cpu") > 0)
        fprintf(out, "overhead %s of the workers' CPU, budget %s%s", show_percent(ratio, a),
                show_percent(budget, b),
                !(ratio > budget) ? ""
                : seconds < 20    ? " (the start weighs in so short a time)"
                                  : " (exceeded)");
    else
        fprintf(out, "overhead: no CPU time of the workers was measured yet");
    fprintf(out, ": sampler %s, hooks %s, aggregator %s; workers %s\n",
            show_time(number(overhead, "sampler_cpu"), c), show_time(number(overhead, "hook_cpu"), d),
            show_time(number(overhead, "aggregator_cpu"), e), show_time(number(overhead, "worker_cpu"), f));
}

/* "2025-01-01T12:00:00.123456Z" as "2025-01-01 12:00:00 UTC"; anything else as it is. */
static void print_instant(FILE *out, const char *instant)
{
    int year, month, day, hour, minute, second;
    if (sscanf(instant, "%4d-%2d-%2dT%2d:%2d:%2d", &year, &month, &day, &hour, &minute, &second) == 6 &&
        instant[strlen(instant) - 1] == 'Z')
        fprintf(out, "%04d-%02d-%02d %02d:%02d:%02d UTC", year, month, day, hour, minute, second);
    else
        print_name(out, instant);
}

static void print_head(FILE *out, const json_t *report)
{
    char a[SHOWN];
    const json_t *window = json_object_get(report, "window"),
                 *cycle = json_object_get(report, "actions_per_cycle");
    double admitted = number_or_zero(cycle, "admitted"), shed = number_or_zero(cycle, "shed");
    fprintf(out, "profilomatic report: ");
    print_name(out, text(report, "source"));
    fprintf(out, ", %s from ", show_time(number(window, "seconds"), a));
    print_instant(out, text(window, "start"));
    fprintf(out, ", %.0f worker%s\n", number_or_zero(report, "workers"),
            number_or_zero(report, "workers") == 1 ? "" : "s");
    print_overhead(out, json_object_get(report, "overhead"), number(window, "seconds"));
    fprintf(out, "profiled %.0f of %.0f actions", admitted, admitted + shed);
    if (number_or_zero(cycle, "cap") > 0)
        fprintf(out, ", at most %.0f new in a cycle of %s (cap %.0f)",
                number_or_zero(cycle, "max_in_a_cycle"), show_time(number(cycle, "cycle_seconds"), a),
                number(cycle, "cap"));
    fprintf(out, "; %.0f samples, %.0f records dropped", number_or_zero(report, "samples"),
            number_or_zero(report, "dropped"));
    if (number_or_zero(report, "unattributed") > 0)
        fprintf(out, ", %.0f unattributed", number(report, "unattributed"));
    fprintf(out, "\n");
    if (number_or_zero(report, "quarantined") > 0)
        fprintf(out, "%.0f damaged segment(s) set aside\n", number(report, "quarantined"));
}

static void print_notes(FILE *out, const json_t *object)
{
    size_t i;
    json_t *note;
    json_array_foreach(json_object_get(object, "notes"), i, note)
    {
        if (json_is_string(note)) {
            fprintf(out, "note: ");
            print_name(out, json_string_value(note));
            putc('\n', out);
        }
    }
}

/* "blocked 70.5 %, cpu 21.5 %": largest first, without those that would show as next to nothing. */
static void print_states(FILE *out, const json_t *action)
{
    struct state {
        const char *name;
        double share;
    } states[] = {{"cpu", 0}, {"native", 0}, {"gil_wait", 0}, {"blocked", 0}, {"runnable", 0}};
    char shown[SHOWN], error[SHOWN];
    double wall = number_or_zero(action, "wall");
    unsigned known = 0, shares = 0;
    for (unsigned i = 0; i < 5; i++) {
        double seconds = number(action, states[i].name);
        if (isnan(seconds))
            continue;
        struct state state = {states[i].name, wall > 0 ? seconds / wall : 0};
        unsigned at = known++;
        for (; at > 0 && states[at - 1].share < state.share; at--)
            states[at] = states[at - 1];
        states[at] = state;
    }
    if (known == 0)
        fprintf(out, "where it went is not known: none was profiled");
    for (unsigned i = 0; i < known; i++)
        if (i == 0 || states[i].share >= LEAST_SHARE)
            fprintf(out, "%s%s %s%s", shares++ == 0 ? "" : ", ", states[i].name,
                    show_percent(states[i].share, shown), show_error(action, states[i].name, wall, error));
}

static void print_bar(FILE *out, double share)
{
    int full = isnan(share) || share < 0 ? 0 : share > 1 ? BAR : (int)(share * BAR + 0.5);
    for (int i = 0; i < BAR; i++)
        putc(i < full ? '#' : '.', out);
}

static void print_hot(FILE *out, const json_t *hot)
{
    char a[SHOWN], b[SHOWN], c[SHOWN];
    size_t i;
    json_t *row;
    json_array_foreach(hot, i, row)
    {
        bool noise = json_is_true(json_object_get(row, "noise"));
        fprintf(out, "    ");
        print_bar(out, number(row, "share"));
        fprintf(out, " %7s%-7s %8s  %-8s  ", show_percent(number(row, "share"), a),
                show_error(row, "share", 1, c), show_time(number(row, "self_time"), b), word(row, "state"));
        print_name(out, text(row, "instruction"));
        double samples = number_or_zero(row, "samples");
        if (samples > 0 && samples <= FEW_SAMPLES)
            fprintf(out, " (%.0f sample%s%s)", samples, samples == 1 ? "" : "s",
                    noise ? ": mostly noise" : "");
        else if (noise)
            fprintf(out, " (mostly noise)");
        putc('\n', out);
    }
}

static void print_slow_because(FILE *out, const json_t *rows)
{
    char a[SHOWN], b[SHOWN], c[SHOWN], d[SHOWN];
    size_t i;
    json_t *row;
    if (json_array_size(rows) != 0)
        fprintf(out, "  the slowest (from p95 up) differ from the typical (up to p50) by\n");
    json_array_foreach(rows, i, row)
    {
        fprintf(out, "    %7s%s of their time, typically %7s%s  %-8s  ",
                show_percent(number(row, "share_slow"), a), show_error(row, "share_slow", 1, c),
                show_percent(number(row, "share_typical"), b), show_error(row, "share_typical", 1, d),
                word(row, "state"));
        print_name(out, text(row, "instruction"));
        fprintf(out, "%s\n", json_is_true(json_object_get(row, "noise")) ? " (mostly noise)" : "");
    }
}

/* "; not profiled: 900 lottery, 3 cap": why actions were not profiled; the reasons that there were. */
static void print_denied(FILE *out, const json_t *denied)
{
    const char *reason, *before = "; not profiled: ";
    json_t *count;
    json_object_foreach((json_t *)denied, reason, count)
    {
        if (!(json_number_value(count) > 0))
            continue;
        fprintf(out, "%s%.0f ", before, json_number_value(count));
        print_name(out, reason);
        before = ", ";
    }
}

static void print_counts(FILE *out, const json_t *action)
{
    char shown[5][SHOWN];
    const json_t *latency = json_object_get(action, "latency");
    fprintf(out, "  %.0f ended, %.0f with an error, %.0f profiled", number_or_zero(action, "count"),
            number_or_zero(action, "errors"), number_or_zero(action, "profiled"));
    if (number_or_zero(action, "profiled_late") > 0)
        fprintf(out, ", %.0f more from when they were slow", number_or_zero(action, "profiled_late"));
    print_denied(out, json_object_get(action, "denied"));
    putc('\n', out);
    fprintf(out, "  p50 %s, p90 %s, p99 %s, max %s, mean %s\n", show_time(number(latency, "p50"), shown[0]),
            show_time(number(latency, "p90"), shown[1]), show_time(number(latency, "p99"), shown[2]),
            show_time(number(latency, "max"), shown[3]), show_time(number(latency, "mean"), shown[4]));
}

static void print_action(FILE *out, const json_t *action)
{
    char shown[SHOWN];
    const json_t *hot = json_object_get(action, "hot");
    putc('\n', out);
    print_name(out, text(action, "action_type"));
    putc('\n', out);
    if (number_or_zero(action, "count") > 0) /* time outside any action has no ends */
        print_counts(out, action);
    fprintf(out, "  %s in all: ", show_time(number(action, "wall"), shown));
    print_states(out, action);
    putc('\n', out);
    if (number_or_zero(action, "profiled") > 0 && json_array_size(hot) == 0)
        fprintf(out, "    no sample of a line yet: short actions are rarely met by one\n");
    print_hot(out, hot);
    print_slow_because(out, json_object_get(action, "slow_because"));
}

void text_report(FILE *out, const json_t *report, size_t most)
{
    const json_t *actions = json_object_get(report, "actions");
    size_t i, count = json_array_size(actions);
    json_t *action;
    double wall_rest = 0;
    char shown[SHOWN];
    print_head(out, report);
    print_notes(out, report);
    if (json_object_get(json_array_get(actions, 0), "se") != NULL)
        fprintf(out,
                "figures with +- are estimates, 95 in 100 of them true to within so much; the others are "
                "exact\n");
    json_array_foreach(actions, i, action)
    {
        if (i < most)
            print_action(out, action);
        else
            wall_rest += number_or_zero(action, "wall");
    }
    if (count > most)
        fprintf(out, "\n%zu more action types with %s in all; --action NAME shows one\n", count - most,
                show_time(wall_rest, shown));
}

static void print_limits(FILE *out, const json_t *limits)
{
    char a[SHOWN], b[SHOWN];
    if (!json_is_object(limits))
        return;
    fprintf(out, "  samples each %s, by %s", show_time(number(limits, "interval"), a),
            word(limits, "granularity"));
    if (number_or_zero(limits, "cap") > 0)
        fprintf(out, ", at most %.0f new profiled actions a cycle", number(limits, "cap"));
    fprintf(out, ", budget %s%s%s\n", show_percent(number(limits, "max_overhead"), b),
            json_is_true(json_object_get(limits, "paused")) ? "; PAUSED: the budget is spent" : "",
            json_is_true(json_object_get(limits, "passthrough")) ? "; hooks switched off: the budget is spent"
                                                                 : "");
    if (*text(limits, "reason") != '\0')
        fprintf(out, "  the limits are so because: %s\n", word(limits, "reason"));
}

/* "2025-01-01T12:00:00.123456Z" -> "12:00:00" */
static void print_time_of_day(FILE *out, const char *instant)
{
    char shown[9];
    const char *time = strchr(instant, 'T');
    snprintf(shown, sizeof shown, "%s", time == NULL ? "?" : time + 1);
    print_name(out, shown);
}

/* One change of the limits: what is different now, and why. */
static void print_decision(FILE *out, const json_t *decision)
{
    char a[SHOWN], b[SHOWN], c[SHOWN];
    const json_t *from = json_object_get(decision, "from"), *to = json_object_get(decision, "to");
    const struct {
        const char *key, *on, *off;
    } switches[] = {{"paused", ", paused", ", pause over"},
                    {"passthrough", ", hooks switched off", ", hooks switched on"}};
    fprintf(out, "  ");
    print_time_of_day(out, text(decision, "time"));
    fprintf(out, " at %s:", show_percent(number(decision, "overhead_10s"), a));
    if (number(from, "interval") != number(to, "interval"))
        fprintf(out, " interval %s -> %s", show_time(number(from, "interval"), b),
                show_time(number(to, "interval"), c));
    if (strcmp(text(from, "granularity"), text(to, "granularity")) != 0)
        fprintf(out, " by %s", word(to, "granularity"));
    if (number(from, "cap") != number(to, "cap"))
        fprintf(out, " cap %.0f -> %.0f", number(from, "cap"), number(to, "cap"));
    for (size_t i = 0; i < 2; i++)
        if (json_is_true(json_object_get(from, switches[i].key)) !=
            json_is_true(json_object_get(to, switches[i].key)))
            fprintf(out, "%s",
                    json_is_true(json_object_get(to, switches[i].key)) ? switches[i].on : switches[i].off);
    fprintf(out, " (%s)\n", word(decision, "reason"));
}

static void print_decisions(FILE *out, const json_t *decisions, size_t most)
{
    size_t count = json_array_size(decisions);
    if (count != 0)
        fprintf(out, "  last decisions (UTC, after the overhead of 10 s):\n");
    for (size_t i = count > most ? count - most : 0; i < count; i++)
        print_decision(out, json_array_get(decisions, i));
}

static void print_history(FILE *out, const json_t *history)
{
    char a[SHOWN], b[SHOWN], c[SHOWN];
    size_t count = json_array_size(json_object_get(history, "start"));
    if (count != 0)
        fprintf(out,
                "  the last hour, 10 s a line (UTC): highest overhead, ours, the workers' CPU, interval, "
                "actions begun/profiled\n");
    for (size_t i = 0; i < count; i++) {
        double ours = 0;
        static const char *const parts[] = {"sampler_cpu", "hook_cpu", "aggregator_cpu"};
        for (size_t p = 0; p < 3; p++)
            ours += json_number_value(json_array_get(json_object_get(history, parts[p]), i));
        const json_t *start = json_array_get(json_object_get(history, "start"), i);
        const char *instant = json_string_value(start);
        fprintf(out, "  ");
        print_time_of_day(out, instant == NULL ? "" : instant);
#define AT(key) json_number_value(json_array_get(json_object_get(history, key), i))
        fprintf(out, " %8s %8s", show_percent(AT("overhead_10s"), a), show_time(ours, b));
        fprintf(out, " %8s", show_time(AT("worker_cpu"), b));
        fprintf(out, " %8s %.0f/%.0f%s\n", show_time(AT("interval"), c), AT("actions"), AT("admitted"),
                AT("paused") > 0 ? " paused" : "");
#undef AT
    }
}

static void print_destination(FILE *out, const json_t *destination)
{
    const char *error = text(destination, "last_error");
    fprintf(out, "  %s ", word(destination, "kind"));
    print_name(out, text(destination, "target"));
    fprintf(out, ": %.0f delivered, %.0f failed, %.0f dropped", number_or_zero(destination, "delivered"),
            number_or_zero(destination, "failed"), number_or_zero(destination, "dropped"));
    double waiting = number_or_zero(destination, "waiting"), spooled = number_or_zero(destination, "spooled");
    if (waiting > 0)
        fprintf(out, ", %.0f waiting (%.0f of them on disk)", waiting, spooled);
    if (*error != '\0')
        fputs("; last error: ", out);
    print_name(out, error);
    putc('\n', out);
}

static void print_pool(FILE *out, const json_t *pool)
{
    char a[SHOWN];
    size_t i;
    json_t *one;
    const json_t *workers = json_object_get(pool, "workers");
    double longest = 0;
    json_array_foreach(workers, i, one)
    {
        longest = fmax(longest, number_or_zero(one, "attached_seconds"));
    }
    putc('\n', out);
    print_name(out, text(pool, "source"));
    fprintf(out, " (uid %.0f): %zu worker%s, %.0f records dropped, %.0f damaged segment(s)\n  ",
            number_or_zero(pool, "uid"), json_array_size(workers), json_array_size(workers) == 1 ? "" : "s",
            number_or_zero(pool, "dropped"), number_or_zero(pool, "quarantined"));
    print_overhead(out, json_object_get(pool, "overhead"), longest);
    print_limits(out, json_object_get(pool, "limits"));
    print_decisions(out, json_object_get(pool, "decisions"), DECISIONS);
    print_history(out, json_object_get(pool, "history"));
    json_array_foreach(workers, i, one)
    {
        fprintf(out, "  worker %.0f: Python ", number_or_zero(one, "pid"));
        print_name(out, text(one, "python"));
        fprintf(out, ", attached for %s, %.0f samples, %.0f records dropped\n",
                show_time(number(one, "attached_seconds"), a), number_or_zero(one, "samples"),
                number_or_zero(one, "dropped"));
    }
    json_array_foreach(json_object_get(pool, "actions"), i, one)
    {
        if (i < STATUS_TYPES) {
            fprintf(out, "  ");
            print_name(out, text(one, "action_type"));
            fprintf(out, ": %.0f ended, %.0f profiled", number_or_zero(one, "count"),
                    number_or_zero(one, "profiled"));
            print_denied(out, json_object_get(one, "denied"));
            putc('\n', out);
        }
    }
    json_array_foreach(json_object_get(pool, "destinations"), i, one)
    {
        print_destination(out, one);
    }
    print_notes(out, pool);
}

void text_status(FILE *out, const json_t *status)
{
    char shown[SHOWN];
    size_t i;
    json_t *pool;
    const json_t *aggregator = json_object_get(status, "aggregator"),
                 *pools = json_object_get(status, "pools");
    fprintf(out, "aggregator %s: process %.0f, up %s\n", word(aggregator, "version"),
            number_or_zero(aggregator, "pid"), show_time(number(aggregator, "uptime_seconds"), shown));
    if (json_array_size(pools) == 0)
        fprintf(out, "no worker has attached\n");
    json_array_foreach(pools, i, pool)
    {
        print_pool(out, pool);
    }
}
