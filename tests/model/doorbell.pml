/*
 * Doorbell: a worker whose lane fills wakes the aggregator, which sleeps on a futex word in the budget page.
 *
 * `doorbell` and `waiting` are reserved in shm/budget.h. As it is, the aggregator polls (set_pace in aggregator/service.c)
 * and no worker rings; whoever makes use of them has to keep to the order that is shown here.
 *
 * What is shown: no ring is lost, so the aggregator never sleeps for good while a lane waits for it, as long as no worker is
 * killed between bumping the word and waking; and for that case, that its time-out lets it find what is there.
 *
 *   step here                         what it would be
 *   worker: lane                      lane_put (shm/lane.h) across the mark
 *   worker: bump, look, wake          fetch_add of `doorbell`, load of `waiting`, futex_wake only where it is set
 *   aggregator: seen, waiting         load of `doorbell`, then `waiting` is set, then the lanes are looked at once more
 *   aggregator: sleep                 futex_wait on `doorbell` with the value seen: compared and asleep in one step
 *   time-out                          the poll interval
 *
 * All accesses are to be sequentially consistent (a store, then a load of another word, on both sides).
 *
 * Broken variants: BREAK_SEEN_LATE, BREAK_WAITING_LATE, BREAK_LOOK_FIRST, BREAK_WAIT_BLIND, BREAK_NO_TIME_OUT.
 */
#define WORKERS 2
#define RINGS 2 /* of each worker */

byte lane, drained; /* how much was put, by all; how much was read */
byte doorbell;
bool waiting, sleeping;
bool killed; /* a worker, between its bump and its wake */

active [WORKERS] proctype worker()
{
    byte rings;
    bool was_waiting;
    do
    :: rings < RINGS ->
        rings++;
#ifdef BREAK_LOOK_FIRST
        was_waiting = waiting;
#endif
        lane++;
        doorbell++;
        if
        :: killed = true; break
        :: true
        fi;
#ifndef BREAK_LOOK_FIRST
        was_waiting = waiting;
#endif
        if
        :: was_waiting -> sleeping = false
        :: else
        fi
    :: else -> break
    od
}

active proctype aggregator()
{
    byte seen, end;
    do
    :: drained == WORKERS * RINGS -> break
    :: else ->
#ifndef BREAK_SEEN_LATE
        seen = doorbell;
#endif
#ifndef BREAK_WAITING_LATE
        waiting = true;
#endif
        end = lane;
        if
        :: end != drained -> drained = end
        :: else ->
#ifdef BREAK_SEEN_LATE
            seen = doorbell;
#endif
            atomic {
                if
#ifdef BREAK_WAIT_BLIND
                :: true -> sleeping = true
#else
                :: seen == doorbell -> sleeping = true
                :: else
#endif
                fi
            };
#ifdef BREAK_WAITING_LATE
            waiting = true;
#endif
end_asleep:
            if
            :: !sleeping
#ifndef BREAK_NO_TIME_OUT
            :: killed && sleeping && drained != lane -> sleeping = false /* only then, so as not to hide a lost ring */
#endif
            fi
        fi;
        waiting = false
    od
}

/* Nothing can move any more. */
active proctype observer()
{
    timeout -> assert(!sleeping || drained == lane)
}
