/*
 * A report as text for people.
 */
#ifndef AGGREGATOR_CLI_TEXT_H
#define AGGREGATOR_CLI_TEXT_H

#include <jansson.h>
#include <stdio.h>

enum {
    TEXT_ROWS = 5,     /* lines shown for each action where nobody says how many */
    TEXT_ACTIONS = 10, /* actions shown in full; the rest is summed up */
};

/**
 * Print the report object: what it covers and what it cost, then for each action (at most `actions`) how long
 * it took, where the time went and which lines to blame. What it prints never contains a control character of
 * a name.
 */
void text_report(FILE *out, const json_t *report, size_t actions);

/** Print the reply of the verb `status`. */
void text_status(FILE *out, const json_t *status);

#endif
