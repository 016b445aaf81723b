/*
 * The private runtime directory of one `run`: /dev/shm/profilomatic-<uid>/run-<pid>-<random>, 0700.
 *
 * A lock on a file in it says that its `run` lives; what a killed `run` left behind is removed by the next
 * one.
 */
#ifndef AGGREGATOR_CLI_PRIVATE_DIRECTORY_H
#define AGGREGATOR_CLI_PRIVATE_DIRECTORY_H

#include "shm/directory.h"

struct private_directory {
    char path[DIRECTORY_PATH_MAX]; /* "": none */
    char parent[DIRECTORY_PATH_MAX];
    int lock; /* descriptor, closed on exec */
};

/** The folder of the private directories of this user's runs. 0, or -errno if it is missing or not ours
 * alone. */
int private_directory_parent(char parent[DIRECTORY_PATH_MAX]);

/** Make it. 0, or -errno with fault_text(); then nothing is left behind. */
int private_directory_make(struct private_directory *directory);

/** Remove it with all that is in it, and its parent if that is empty now. Nothing happens if there is none.
 */
void private_directory_remove(struct private_directory *directory);

#endif
