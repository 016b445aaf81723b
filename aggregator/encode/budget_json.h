/*
 * The budget as JSON: limits, the decisions that led to them, and the time series of the last hour, as
 * `status` shows them, and the message of kind "status".
 *
 * CPU in seconds, intervals in seconds, overhead as a ratio. All functions return new references, or NULL
 * without memory.
 */
#ifndef AGGREGATOR_ENCODE_BUDGET_JSON_H
#define AGGREGATOR_ENCODE_BUDGET_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "aggregator/history.h"
#include "aggregator/windows.h"

/** Name of an enum granularity. */
const char *budget_granularity_name(uint32_t granularity);

/** {"interval", "granularity", "cap", "paused", "passthrough", "reason"}. */
json_t *budget_limits_json(const struct budget_limits *limits);

/** Decisions from the number `from` on, at most the newest `most`, oldest first. */
json_t *budget_decisions_json(const struct history *history, uint64_t from, uint64_t most);

/** Columns of the time series, oldest first: {"start": […], "seconds": […], "sampler_cpu": […], …}. */
json_t *budget_history_json(const struct history *history);

/** The message of kind "status" for one window: a line without its end, to be freed. */
char *budget_message(const char *source, const struct window *window, double max_overhead,
                     const struct budget_limits *limits, const struct history *history,
                     uint64_t decisions_from);

#endif
