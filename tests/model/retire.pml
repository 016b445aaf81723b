/*
 * Retiring a segment: closed by its worker when it is full or at exit, or left behind by a dead one; drained to its end,
 * kept, and only then removed. Worker and aggregator are killed at any step; either may be stopped for as long as it likes
 * (Spin lets every process wait between any two steps), so a worker that was stopped and wakes is among the runs.
 *
 * What is shown: every record that was committed in any of the worker's segments is kept once, no worker ever writes to a
 * segment that was removed, and in the end no segment is left.
 *
 *   step here                         in the code
 *   worker: fresh segment             worker_renew_segment (runtime/worker.c): make_segment, whose rename is the step here;
 *                                     from then on records go there
 *   worker: closed                    its last word in the old one, SEGMENT_CLOSED with release; at exit worker_close
 *   aggregator: find                  scan_rings, find_worker, adopt (aggregator/pool_scan.c); where no checkpoint knows the
 *                                     segment it begins at its head
 *   aggregator: was_gone              worker_alive, before the drain: pidfd with start time and boot id. What decides is
 *                                     the death itself, never silence
 *   aggregator: was_closed, end       read_page (aggregator/workers.c): the state before the tails
 *   aggregator: quiet                 pool_round: nothing new after the end. The code waits for two such rounds, which
 *                                     hides a wrong order; one is modelled
 *   aggregator: keep                  the commit of a checkpoint: what was merged and the positions
 *   aggregator: head, unlink          pool_after_checkpoint
 *   restart                           pool_open: all segments that are there are found before anything is kept; only then
 *                                     may what the checkpoint knows and is no more be forgotten (pool_forget_unfound)
 *
 * Broken variants: BREAK_SILENCE (a quiet worker is retired), BREAK_ASKED_LATE, BREAK_STATE_LATE, BREAK_CLOSED_EARLY,
 * BREAK_UNLINK_FIRST, BREAK_FROM_START, BREAK_FORGET_EARLY.
 */
#define SEGMENTS 2
#define PUTS 1 /* records in each segment */

byte tail[SEGMENTS], head[SEGMENTS];
bool linked[SEGMENTS], closed[SEGMENTS];
bool kill_worker, gone;
bool kill_aggregator, restarted; /* once */

/* What the checkpoint holds; `kept` is how many records of the segment were merged. */
bool kept_known[SEGMENTS];
byte kept_position[SEGMENTS], kept[SEGMENTS];

active proctype worker()
{
    byte current, puts;
    {
        linked[0] = true;
        do
        :: puts < PUTS ->
            assert(linked[current]);
            tail[current]++;
            puts++
        :: current + 1 < SEGMENTS ->
            linked[current + 1] = true;
#ifdef BREAK_CLOSED_EARLY
            closed[current] = true;
            if
            :: puts < PUTS -> tail[current]++ /* one more that was under way */
            :: else
            fi;
            atomic { current++; puts = 0 }
#else
            atomic { current++; puts = 0 };
            closed[current - 1] = true
#endif
        :: break
        od;
        closed[current] = true
    } unless { kill_worker };
    gone = true
}

inline find(i)
{
    if
    :: linked[i] && !attached[i] ->
        atomic {
            attached[i] = true;
#ifdef BREAK_FROM_START
            position[i] = 0
#else
            position[i] = (kept_known[i] -> kept_position[i] : head[i])
#endif
        }
    :: else
    fi
}

active proctype aggregator()
{
    byte s, end;
    byte position[SEGMENTS], merged[SEGMENTS];
    bool attached[SEGMENTS], final[SEGMENTS];
    bool was_gone, was_closed;
begin:
    {
        for (s : 0 .. SEGMENTS - 1) {
            merged[s] = kept[s];
#ifndef BREAK_FORGET_EARLY
            find(s)
#endif
        };
        s = 0;
        do
        :: true ->
#ifndef BREAK_ASKED_LATE
            was_gone = gone;
#endif
            find(s);
            /* drain */
            if
            :: attached[s] && !final[s] ->
#ifndef BREAK_STATE_LATE
                was_closed = closed[s];
#endif
                end = tail[s];
#ifdef BREAK_STATE_LATE
                was_closed = closed[s];
#endif
#ifdef BREAK_ASKED_LATE
                was_gone = gone;
#endif
                if
                :: end == position[s] ->
#ifdef BREAK_SILENCE
                    final[s] = true
#else
                    final[s] = was_gone || was_closed
#endif
                :: else ->
                    assert(position[s] < end);
                    d_step { merged[s] = merged[s] + end - position[s]; position[s] = end }
                fi;
                atomic { end = 0; was_closed = false }
            :: else
            fi;
#ifdef BREAK_UNLINK_FIRST
            if
            :: final[s] -> linked[s] = false
            :: else
            fi;
#endif
            if
            :: true /* checkpoints come less often than rounds */
            :: true ->
                atomic {
                    kept[0] = merged[0];
                    kept[1] = merged[1];
                    kept_position[0] = position[0];
                    kept_position[1] = position[1];
                    kept_known[0] = attached[0];
                    kept_known[1] = attached[1]
                };
                if
                :: attached[s] ->
                    head[s] = position[s];
                    if
                    :: final[s] ->
                        linked[s] = false;
                        atomic { attached[s] = false; final[s] = false; position[s] = 0 }
                    :: else
                    fi
                :: else
                fi
            fi;
            if
            :: was_gone && !linked[0] && !linked[1] -> break
            :: else -> atomic { was_gone = false; s = (s + 1) % SEGMENTS }
            fi
        od
    } unless { kill_aggregator && !restarted };
    if
    :: kill_aggregator && !restarted ->
        d_step {
            restarted = true;
            for (s : 0 .. SEGMENTS - 1) {
                position[s] = 0;
                merged[s] = 0;
                attached[s] = false;
                final[s] = false
            }
            s = 0;
            end = 0;
            was_gone = false;
            was_closed = false
        };
        goto begin
    :: else
    fi;
    assert(kept[0] == tail[0] && kept[1] == tail[1])
}

active proctype killer()
{
    do
    :: !kill_aggregator -> kill_aggregator = true
    :: !kill_worker -> kill_worker = true
    :: break
    od
}
