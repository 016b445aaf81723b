/*
 * Checkpoint: a pool's merged state, so that the aggregator may be killed at any instant and nothing is lost
 * or counted twice.
 *
 *   <pool>/checkpoint    the one commit point (written aside, renamed): lane positions and counters taken
 *                        of each worker, the open window, open actions with their samples, which
 *                        closed windows belong to it, how much of the names log is valid
 *   <pool>/window-<id>   a closed window, written once
 *   <pool>/names         types, instructions and stacks in order of their ids; only ever appended to
 *
 * Files are written before the checkpoint that mentions them and removed after the first that does not. Lane
 * heads are stored and finished segments removed only after the rename. Content is msgpack with a CRC; a file
 * that does not check out is refused whole.
 */
#ifndef AGGREGATOR_CHECKPOINT_H
#define AGGREGATOR_CHECKPOINT_H

#include "aggregator/pool.h"

/** Write and commit; then pool_after_checkpoint. 0, or -errno with fault_text(): nothing was committed. */
int checkpoint_write(struct pool *pool);

/** Load into a pool that is empty. 0, also if there is none; -EBADMSG … with fault_text(): the pool is
 * unusable as it is. */
int checkpoint_load(struct pool *pool);

/** Set a pool and its files back to nothing merged (a damaged checkpoint is kept aside as
 * checkpoint.damaged). */
void checkpoint_forget(struct pool *pool);

/** The folder is a new, empty one: everything is to be written again. */
void checkpoint_renew(struct pool *pool);

#endif
