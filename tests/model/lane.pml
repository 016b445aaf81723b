/*
 * Lane: one producer, one consumer, either killed at any step.
 *
 * What is shown: what the aggregator has committed in the end is what the worker committed, each record once, whole, in
 * order, and with its definition known; what found no room is counted.
 *
 *   step here                         in the code
 *   worker: defined = number          definitions_put (shm/definitions.h): bytes, then `used` with release
 *   worker: room, padding, write      lane_put (shm/lane.h), with its cached head
 *   worker: commit                    the store-release of `tail`, the one commit
 *   aggregator: gone, tail, defined   pool_round asks worker_alive first; read_page (aggregator/workers.c) loads the tail
 *                                     before how far the definitions go
 *   aggregator: take                  drain_lane and parse, into private memory, with a private position
 *   aggregator: keep                  the commit of a checkpoint: what was merged and the position at once
 *   aggregator: head = position       worker_store_heads, from pool_after_checkpoint
 *   restart                           checkpoint_load and adopt: the checkpoint is believed, not the head
 *
 * Units stand for 8 bytes. A record is one or two units, written and read unit by unit, so that a torn one shows.
 * Spin's memory is sequentially consistent: that acquire and release suffice is what tests/unit/test_threads.c shows.
 *
 * Broken variants: BREAK_COMMIT_FIRST, BREAK_HEAD_FIRST, BREAK_RESTART_AT_HEAD, BREAK_ROOM, BREAK_TWO_COMMITS,
 * BREAK_USE_FIRST, BREAK_DEFINED_FIRST, BREAK_ASKED_LATE.
 */
#define SIZE 4 /* units of the lane */
#define PUTS 4 /* records that the worker tries to put */

/* A unit: the record's number and what it is of it. */
#define UNIT(number, part) ((number) * 4 + (part))
#define PADDING 0
#define SINGLE 1
#define FIRST 2
#define SECOND 3

byte data[SIZE];
byte tail, head, defined, lost;
bool kill_worker, gone;          /* it takes no further step; its process is no more */
bool kill_aggregator, restarted; /* once */

/* What the checkpoint holds. */
byte kept_position, kept;

/* For the proof only: the set of records that were committed. */
byte committed;

inline commit()
{
    d_step { tail = tail + padding + size; committed = committed | (1 << number) }
}

active proctype worker()
{
    byte number = 1, size, offset, padding, cached;
    {
        do
        :: number <= PUTS ->
            if
            :: size = 1
            :: size = 2
            fi;
#ifndef BREAK_USE_FIRST
            defined = number;
#endif
            d_step {
                offset = tail % SIZE;
                padding = (SIZE - offset < size -> SIZE - offset : 0)
            };
#ifndef BREAK_ROOM
            if
            :: tail + padding + size - cached > SIZE ->
                cached = head;
                if
                :: tail + padding + size - cached > SIZE -> lost++; goto next
                :: else
                fi
            :: else
            fi;
#endif
#ifdef BREAK_COMMIT_FIRST
            commit();
#endif
            if
            :: padding != 0 -> data[offset] = UNIT(0, PADDING); offset = 0
            :: else
            fi;
            if
            :: size == 1 -> data[offset] = UNIT(number, SINGLE)
            :: else -> data[offset] = UNIT(number, FIRST); data[offset + 1] = UNIT(number, SECOND)
            fi;
#ifndef BREAK_COMMIT_FIRST
            commit();
#endif
next:
#ifdef BREAK_USE_FIRST
            defined = number;
#endif
            atomic { number++; size = 0; offset = 0; padding = 0 }
        :: else -> break
        od
    } unless { kill_worker };
    gone = true
}

active proctype aggregator()
{
    byte position, merged, end, known, unit;
    bool was_gone;
begin:
    {
#ifdef BREAK_RESTART_AT_HEAD
        position = head;
#else
        position = kept_position;
#endif
        merged = kept;
        do
        :: true ->
#ifndef BREAK_ASKED_LATE
            was_gone = gone;
#endif
#ifdef BREAK_DEFINED_FIRST
            known = defined;
#endif
            end = tail;
            assert(end - position <= SIZE);
#ifndef BREAK_DEFINED_FIRST
            known = defined;
#endif
            do
            :: atomic {
                position < end ->
                unit = data[position % SIZE];
                position++;
                if
                :: unit % 4 == PADDING -> assert(unit == UNIT(0, PADDING) && position % SIZE == 0)
                :: else ->
                    assert(unit % 4 != SECOND && unit / 4 != 0); /* it begins where a record begins */
                    assert(merged >> (unit / 4) == 0);           /* not twice, and in order */
                    assert(unit / 4 <= known);                   /* its definition was read */
                    merged = merged | (1 << (unit / 4))
                fi };
                if
                :: unit % 4 == FIRST ->
                    assert(data[position % SIZE] == UNIT(unit / 4, SECOND)); /* it is whole */
                    position++
                :: else
                fi;
                unit = 0
            :: else -> break
            od;
#ifdef BREAK_HEAD_FIRST
            head = position;
#endif
#ifdef BREAK_TWO_COMMITS
            kept = merged;
            kept_position = position;
#else
            atomic { kept_position = position; kept = merged };
#endif
#ifndef BREAK_HEAD_FIRST
            head = position;
#endif
#ifdef BREAK_ASKED_LATE
            was_gone = gone;
#endif
            if
            :: was_gone -> break
            :: else -> d_step { end = 0; known = 0 }
            fi
        od
    } unless { kill_aggregator && !restarted };
    if
    :: kill_aggregator && !restarted ->
        d_step { restarted = true; position = 0; merged = 0; end = 0; known = 0; unit = 0; was_gone = false };
        goto begin
    :: else
    fi;
    assert(kept == committed);
    assert(kill_worker || lost + (committed >> 1 & 1) + (committed >> 2 & 1) + (committed >> 3 & 1) + (committed >> 4) == PUTS)
}

active proctype killer()
{
    do
    :: !kill_aggregator -> kill_aggregator = true
    :: !kill_worker -> kill_worker = true
    :: break
    od
}
