/*
 * The command `profilomatic`: what its verbs share.
 *
 * Facts go to stdout, words about what went wrong to stderr, each line "profilomatic: what, where, what to
 * do".
 */
#ifndef AGGREGATOR_CLI_H
#define AGGREGATOR_CLI_H

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define CLI_VERSION "0.1.0"

/** Exit statuses, the same for every verb but `run`, which has its command's. */
enum {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_NOTHING = 3, /* no data matched */
};

int verb_run(int argc, char **argv);
int verb_report(int argc, char **argv);
int verb_export(int argc, char **argv);
int verb_status(int argc, char **argv);

/** One line to stderr, with the command's name before it. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** After a wrong option (already told): point at the verb's help. Returns CLI_USAGE. */
int usage_error(const char *verb);

/**
 * What getopt_long() refused (it returned `refused`, '?' or ':'; its short options begin with ':', so that it
 * says nothing itself): tell, with the nearest option, and point at the verb's help. Returns CLI_USAGE.
 */
int option_error(const char *verb, int refused, char **argv, const struct option *options);

/** The one of `names` (NULL at the end) that is nearest to `word`, or NULL if none is near. */
const char *nearest_name(const char *word, const char *const *names);

/** "0.02" or "2%", from `least` to `most`. False, told, if it is not. */
bool parse_ratio(const char *option, const char *text, double least, double most, double *out);

/** Seconds from `least_value` to `most`. False, told, if it is not. */
bool parse_seconds(const char *option, const char *text, double least_value, double most, double *out);

/** A whole number from 0 to `most`. False, told, if it is not. */
bool parse_count(const char *option, const char *text, uint32_t most, uint32_t *out);

/** Is `text` one of `names` (NULL at the end)? If not, tell what may stand there. */
bool parse_choice(const char *option, const char *text, const char *const *names);

#endif
