/*
 * Messages in Eliot's own form: each is a task of its own, complete by itself, which Eliot's parser and
 * eliot-tree read. Its fields link it to what was profiled; nothing is added to the application's tasks,
 * because a task of which a part stands in another file would look incomplete.
 *
 *   [1]      action_type "profilomatic:<kind>", started: what the message is about
 *   [2] …    "profilomatic:stacks": sampled time by stack, and between them "profilomatic:logged": what the
 *            application logged, in order of time
 *   [n]      succeeded: the measured facts
 */
#ifndef AGGREGATOR_ENCODE_ELIOT_H
#define AGGREGATOR_ENCODE_ELIOT_H

#include "aggregator/encode/identity.h"
#include "aggregator/merge.h"

/** A profiled action: lines with '\n' between them, malloc'ed; NULL without memory. */
char *eliot_action(const struct merge *merge, uint32_t root, const struct origin *origin);

/** One type of a rescaled window. */
char *eliot_profile(const struct merge *merge, const struct window *window, const struct type_totals *totals,
                    const char *source);

/** A message of kind "status" for a window, from its classic form. */
char *eliot_status(const char *classic, const struct window *window, const char *source);

#endif
