/*
 * Where the parts of an installation lie, found from where this program lies.
 */
#ifndef AGGREGATOR_CLI_PLACES_H
#define AGGREGATOR_CLI_PLACES_H

enum {
    PLACES_PATH_MAX = 4096,
};

/**
 * The folder that goes on PYTHONPATH, with the package `profilomatic` in it: ../python beside the program's
 * folder (a build), else ../lib/profilomatic/python (an installation). 0, or -ENOENT with fault_text().
 */
int places_python(char out[PLACES_PATH_MAX]);

/**
 * The aggregator's program: PROFILOMATIC_AGGREGATOR, else beside this program, else on PATH. 0, or -errno
 * with fault_text().
 */
int places_aggregator(char out[PLACES_PATH_MAX]);

#endif
