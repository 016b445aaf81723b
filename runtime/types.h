/*
 * Types: action type names of this process and their rows in the segment's counters. With the GIL held.
 * Row 0 is "(other)", for names that find no room.
 */
#ifndef RUNTIME_TYPES_H
#define RUNTIME_TYPES_H

#include <stddef.h>
#include <stdint.h>

#include "shm/segment.h"

/** Start in a fresh segment with row 0 only. */
void types_begin_segment(struct segment *segment);

/** The row of a name, made if need be; 0 if there is no room. */
uint32_t types_row(struct segment *segment, const char *name, size_t length);

/** The hash of the type that actions first known by the hash `path_hash` turned out to be of; else itself. */
uint32_t types_known(uint32_t path_hash);

/** Learn that actions first known by the hash `path_hash` turn out to be of the type `name`. */
void types_learn(uint32_t path_hash, const char *name, size_t length);

#endif
