/*
 * Guests: workers of other users in a directory that only the aggregator's user may write to.
 *
 * A server that is started as root gives its workers to another user after the fork, so `profilomatic run`
 * and a service of root find theirs among strangers, who may pass through the directory (0711) but make
 * nothing in it. They ask over the control socket, where the kernel says who they are, and get a pool's
 * folder made: the folder is ours, so that nothing in it can be replaced under our hands, and in it rings/
 * and requests/ are theirs.
 */
#ifndef AGGREGATOR_GUESTS_H
#define AGGREGATOR_GUESTS_H

#include <jansson.h>
#include <sys/types.h>

enum {
    GUESTS_POOLS_MOST = 8, /* for one user, in one directory */
};

/**
 * Make the pool that `request` names ({"name": "<uid>-<escaped source>"}), in `directory`, for user `uid`,
 * and only for that one. One that is there is made complete. 0, or -errno with fault_text(). Any thread.
 */
int guests_make_pool(const char *directory, const json_t *request, uid_t uid);

#endif
