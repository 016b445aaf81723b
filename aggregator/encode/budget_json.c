/* The budget as JSON: see budget_json.h. */
#include "aggregator/encode/budget_json.h"

#include "aggregator/encode/identity.h"
#include "aggregator/encode/instant.h"
#include "aggregator/encode/report.h"
#include "aggregator/encode/whole.h"
#include "shm/rates.h"

const char *budget_granularity_name(uint32_t granularity)
{
    static const char *const name[] = {"file", "method", "line"};
    return name[granularity <= GRANULARITY_LINE ? granularity : GRANULARITY_FILE];
}

json_t *budget_limits_json(const struct budget_limits *limits)
{
    return json_pack("{s:f,s:s,s:I,s:b,s:b,s:s}", "interval", (double)limits->interval_ns / 1e9,
                     "granularity", budget_granularity_name(limits->granularity), "cap",
                     (json_int_t)limits->cap, "paused", limits->paused, "passthrough", limits->passthrough,
                     "reason", budget_reason_text(limits->reason));
}

json_t *budget_decisions_json(const struct history *history, uint64_t from, uint64_t most)
{
    json_t *list = json_array();
    uint64_t first = history_first_decision(history);
    if (from < first)
        from = first;
    if (history->decisions > most && from < history->decisions - most)
        from = history->decisions - most;
    for (uint64_t i = from; i < history->decisions; i++) {
        const struct history_decision *decision = &history->decision[i % HISTORY_DECISIONS];
        json_t *one =
            json_pack("{s:o,s:s,s:f,s:o,s:o}", "time", instant_json(decision->real_ns), "reason",
                      budget_reason_text(decision->to.reason), "overhead_10s", decision->overhead, "from",
                      budget_limits_json(&decision->from), "to", budget_limits_json(&decision->to));
        json_object_del(json_object_get(one, "from"), "reason");
        json_object_del(json_object_get(one, "to"), "reason");
        json_array_append_new(list, one);
    }
    return list;
}

json_t *budget_history_json(const struct history *history)
{
    static const char *const keys[] = {"start",    "seconds",    "overhead_10s",   "sampler_cpu",
                                       "hook_cpu", "worker_cpu", "aggregator_cpu", "attached_seconds",
                                       "actions",  "admitted",   "interval",       "granularity",
                                       "paused",   "passthrough"};
    enum { COLUMNS = sizeof keys / sizeof *keys };
    json_t *columns = json_object();
    for (int c = 0; c < COLUMNS; c++)
        json_object_set_new(columns, keys[c], json_array());
    for (uint64_t i = history_first_point(history); i < history->points; i++) {
        const struct history_point *point = &history->point[i % HISTORY_POINTS];
        json_t *value[COLUMNS] = {
            instant_json(point->start_real_ns),
            json_real(point->seconds),
            json_real(point->overhead),
            json_real(point->sampler_cpu),
            json_real(point->hook_cpu),
            json_real(point->worker_cpu),
            json_real(point->aggregator_cpu),
            json_real(point->attached),
            json_integer(whole_of(point->demand)),
            json_integer(whole_of(point->admitted)),
            json_real((double)point->interval_ns / 1e9),
            json_string(budget_granularity_name(point->granularity)),
            json_integer(point->paused),
            json_integer(point->passthrough),
        };
        for (int c = 0; c < COLUMNS; c++)
            json_array_append_new(json_object_get(columns, keys[c]), value[c]);
    }
    return columns;
}

char *budget_message(const char *source, const struct window *window, double max_overhead,
                     const struct budget_limits *limits, const struct history *history,
                     uint64_t decisions_from)
{
    char id[IDENTITY_BYTES];
    identity_window(window, source, "", id);
    json_t *json =
        json_pack("{s:s,s:s,s:s,s:o,s:o,s:I,s:o,s:o,s:o}", "kind", "status", "id", id, "source", source,
                  "window_start", instant_json(window->start_real_ns), "window_end",
                  instant_json(window->end_real_ns), "workers", (json_int_t)window->workers, "overhead",
                  report_overhead(&window->sums, max_overhead), "limits", budget_limits_json(limits),
                  "decisions", budget_decisions_json(history, decisions_from, HISTORY_DECISIONS));
    char *line = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    return line;
}
