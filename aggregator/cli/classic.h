/*
 * Classic messages: the tree form that existing analysis tools read, one JSON object a line.
 */
#ifndef AGGREGATOR_CLI_CLASSIC_H
#define AGGREGATOR_CLI_CLASSIC_H

#include <jansson.h>
#include <stdio.h>

/**
 * Write a report with stacks as one message of kind "profile" for each action type. Times are seconds of the
 * whole population; the message's `time` is the exact wall time of all its actions. Returns the lines
 * written, or -errno with fault_text().
 */
long classic_write(FILE *out, const json_t *report);

#endif
