/*
 * Piece of a checkpoint: what changed in a pool since the piece before, as bytes, and how to repeat it.
 *
 * A piece is a msgpack array of binaries, which hold structs of this build: layout, counts, ids of the closed
 * windows, open window, workers, actions that are gone, actions. The first piece of a chain is "whole":
 * relative to nothing, so it tells of everything. What it tells are new values, never differences, except for
 * samples, which it adds to those that an action has. Applied to a pool in which the pieces before were
 * applied, it leaves the pool as it was when the piece was packed.
 *
 * Packing looks at what the parts noted as touched (profile.h, taken.h, actions.h), so its cost is that of
 * what changed. Reading is a pure function of the bytes and of the pool's names: no file, no clock, and
 * nothing in the bytes is believed that could lead outside a table or past a bound.
 */
#ifndef AGGREGATOR_CHECKPOINT_PIECE_H
#define AGGREGATOR_CHECKPOINT_PIECE_H

#include <stdbool.h>

#include "aggregator/pack.h"
#include "aggregator/pool.h"

enum {
    PIECE_PARTS = 7,
};

struct piece_counts {
    uint64_t names_bytes; /* how much of the names log is valid */
    uint64_t next_window, round, ever;
    uint64_t told_until_ns;
    uint32_t types, instructions, stacks, next_number;
};

/** Pack what was touched, or everything. */
void piece_pack(msgpack_sbuffer *buffer, const struct pool *pool, const struct piece_counts *counts,
                bool whole);

/** The piece has been committed: nothing is touched any more. */
void piece_commit(struct pool *pool, bool whole);

struct piece {
    struct pack_reader reader;
    struct piece_counts counts;
};

/** Look at a piece's bytes, which must stay where they are. 0 or -EBADMSG with fault_text(). To be closed in
 * any case. */
int piece_open(struct piece *piece, const char *data, size_t bytes);

void piece_close(struct piece *piece);

/** Ids of the closed windows that a whole piece mentions; returns how many. */
uint32_t piece_windows(const struct piece *piece, uint64_t id[WINDOWS_MOST]);

/** Repeat it, on a pool whose names are loaded. 0, or -EBADMSG with fault_text(): then the pool is half done.
 */
int piece_apply(struct pool *pool, const struct piece *piece);

/** Does all that a window mentions stand among the pool's names? */
bool piece_fits(const struct pool *pool, const struct window *window);

#endif
