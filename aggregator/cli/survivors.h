/*
 * Survivors: profiled processes that outlive the command of a `run`, because it put itself into the
 * background.
 */
#ifndef AGGREGATOR_CLI_SURVIVORS_H
#define AGGREGATOR_CLI_SURVIVORS_H

#include <sys/types.h>

struct survivors {
    unsigned count;
    pid_t first;
};

/**
 * The running processes whose environment names `directory` as their runtime directory and that have loaded
 * the extension of the Python package in the folder `python`. Those of other users are not seen.
 */
struct survivors survivors_find(const char *directory, const char *python);

#endif
