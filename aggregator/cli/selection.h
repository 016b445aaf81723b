/*
 * Selection: which report is wanted, from where, and the options by which the verbs `report` and `export` say
 * so.
 */
#ifndef AGGREGATOR_CLI_SELECTION_H
#define AGGREGATOR_CLI_SELECTION_H

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct selection {
    const char *file;      /* a saved report; "-": stdin; NULL: ask the aggregator */
    const char *directory; /* the aggregator's; NULL: the default one */
    const char *source;    /* the pool; NULL: the only one */
    const char *action;    /* only this action type; NULL: all */
    double seconds;        /* only the last ones; 0: all since the start */
    uint32_t limit;        /* rows of lines for each action */
    bool stacks;           /* with call trees */
};

enum {
    SELECTION_LIMIT = 20, /* rows of lines where nobody says how many */
};

/** What --duration may ask for. */
#define SELECTION_LEAST_SECONDS 0.001
#define SELECTION_MOST_SECONDS 1e9

/** The options, for getopt_long (short ones: SELECTION_SHORT). */
#define SELECTION_SHORT "d:a:"
enum {
    OPTION_SOURCE = 256,
    OPTION_DIRECTORY,
    OPTION_LIMIT,
    OPTION_OTHERS, /* first value free for a verb's own options */
};
#define SELECTION_LONG                                                                                       \
    {"source", required_argument, NULL, OPTION_SOURCE},                                                      \
        {"directory", required_argument, NULL, OPTION_DIRECTORY},                                            \
        {"limit", required_argument, NULL, OPTION_LIMIT}, {"duration", required_argument, NULL, 'd'},        \
    {                                                                                                        \
        "action", required_argument, NULL, 'a'                                                               \
    }
#define SELECTION_HELP                                                                                       \
    "  --source NAME        the pool, where the aggregator serves several\n"                                 \
    "  -d, --duration SEC   only the last SEC seconds (a running aggregator only)\n"                         \
    "  -a, --action NAME    only this action type, or those with NAME in theirs\n"                           \
    "  --limit N            lines shown for each action\n"                                                   \
    "  --directory DIR      the aggregator's runtime directory (default: PROFILOMATIC_DIR, "                 \
    "/run/profilomatic or\n"                                                                                 \
    "                       /dev/shm/profilomatic-UID)\n"

/** Take over one option that getopt_long found. False, told, if its value is wrong. */
bool selection_option(struct selection *selection, int option, const char *value);

/** Take over what stands behind the options: at most one file. False, told, if there is more. */
bool selection_file(struct selection *selection, int argc, char **argv);

/**
 * Get the report, filtered. CLI_OK, or CLI_NOTHING if no action is in it, and *report (the caller's); or
 * another exit status without a report. What is wrong has been told.
 */
int selection_load(const struct selection *selection, json_t **report);

/** Load a report from a file ("-": stdin) and check its form. 0, or -errno with fault_text(). */
int selection_read_file(const char *path, json_t **report);

/**
 * Keep the actions of type `action` (if there is none: those whose type contains it; NULL: all) and at most
 * `limit` rows of lines in each. Returns how many actions are left.
 */
size_t selection_filter(json_t *report, const char *action, uint32_t limit);

#endif
