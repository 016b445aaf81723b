/*
 * Collapsed stacks: one line a stack, the action type and the instructions root first with ";" between them,
 * a space and a whole number. The form that flame graph tools read.
 */
#ifndef AGGREGATOR_CLI_COLLAPSED_H
#define AGGREGATOR_CLI_COLLAPSED_H

#include <jansson.h>
#include <stdio.h>

enum collapsed_unit {
    COLLAPSED_SAMPLES, /* as taken */
    COLLAPSED_WALL,    /* microseconds of the whole population */
    COLLAPSED_CPU,     /* microseconds of CPU of the whole population */
};

/**
 * Write a report with stacks. A ";" inside a name becomes ",", a control character a space; stacks that come
 * to 0 are left out. Returns the lines written, or -errno with fault_text().
 */
long collapsed_write(FILE *out, const json_t *report, enum collapsed_unit unit);

#endif
