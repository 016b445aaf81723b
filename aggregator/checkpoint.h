/*
 * Checkpoint: a pool's merged state, so that the aggregator may be killed at any instant and nothing is lost
 * or counted twice.
 *
 *   <pool>/checkpoint    a chain of pieces. The first tells of everything: lane positions and counters taken
 * of each worker, the open window, open actions with their samples, which closed windows belong to it. Each
 * later one, written once a cycle, tells only what changed: see checkpoint_piece.h. <pool>/window-<id>   a
 * closed window, written once <pool>/names         types, instructions and stacks in order of their ids; only
 * ever appended to. How much of it is valid stands in the chain's last piece.
 *
 * The one commit is the piece: a first one by being renamed into place, a later one by the last of its bytes,
 * since a piece without all its bytes is none. The chain is begun anew when a window has been closed, after a
 * restart, when it has become long, and when twice its length is more than is left of its file system. Files
 * are written before the piece that mentions them and removed after the first chain that does not. Lane heads
 * are stored and finished segments removed only after the commit. On a restart the chain is the authority,
 * not the heads. Content has a CRC: a tail that a death left behind is ignored, a file that is damaged
 * otherwise is refused.
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
