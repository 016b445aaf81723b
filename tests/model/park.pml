/*
 * Parking the sampler: it sleeps on a futex while nothing is profiled, is woken by whoever arms something, and may be held
 * while its segment is replaced.
 *
 * What is shown: it never sleeps for good while there is work for it (no wake-up is lost), and it touches no segment
 * while it is held.
 *
 *   step here                         in the code (runtime/sampler.c unless another file is named)
 *   gil: arm, disarm                  fill_slot, disarm (runtime/action.c): `armed` is changed, then sampler_wake
 *   gil: look, stop, watch            sampler_look_for_aggregator, sampler_stop, sampler_watch
 *   gil: hold … release               worker_renew_segment (runtime/worker.c): sampler_hold, a new segment, sampler_release
 *   wake                              sampler_wake: a load, then a compare-and-swap PARKED to RUNNING, then futex_wake
 *   sampler: touching                 run: a tick reads the segment and writes to it
 *   sampler: reclaim                  slot_reclaim (runtime/action.c): it takes back the slot of a thread that died
 *   sampler: park                     park: PARKED is stored before has_work is asked
 *   futex_wait                        the kernel compares the word and goes to sleep in one step; wakes for no reason, too
 *
 * All threads that hold the GIL are one process here. All accesses of this protocol are sequentially consistent in the
 * code, so Spin's memory is the right one.
 *
 * Broken variants: BREAK_CHECK_FIRST, BREAK_WAKE_FIRST, BREAK_WAKE_BY_STORE, BREAK_RELEASE_QUIET, BREAK_WAIT_BLIND,
 * BREAK_WATCH_QUIET.
 */
#define OPERATIONS 5 /* by holders of the GIL */

mtype = { RUNNING, PARKED, HELD };

mtype state = RUNNING;
byte armed;
bool look, stop, watch;
bool sleeping, nap;  /* the sampler is in futex_wait; with a time-out */
bool held, touching; /* for the proof only */

inline futex_wake()
{
    sleeping = false
}

inline wake()
{
    if
    :: state == PARKED ->
#ifdef BREAK_WAKE_BY_STORE
        won = true;
        state = RUNNING;
#else
        d_step {
            won = state == PARKED;
            if
            :: won -> state = RUNNING
            :: else
            fi
        };
#endif
        if
        :: won -> futex_wake()
        :: else
        fi;
        won = false
    :: else
    fi
}

active proctype gil()
{
    byte operations;
    bool won;
    do
    :: operations < OPERATIONS ->
        operations++;
        if
        :: armed < 2 ->
#ifdef BREAK_WAKE_FIRST
            wake();
            armed++
#else
            armed++;
            wake()
#endif
        :: d_step { armed > 0 -> armed-- }
        :: look = true; wake()
        :: watch = !watch;
#ifndef BREAK_WATCH_QUIET
            wake()
#endif
        :: armed == 0 ->
            if
            :: d_step { state == PARKED -> state = HELD };
                held = true;
                assert(!touching);
                held = false;
                state = PARKED;
                futex_wake();
#ifndef BREAK_RELEASE_QUIET
                if
                :: armed != 0 || look || stop -> wake()
                :: else
                fi
#endif
            :: else
            fi
        fi
    :: !stop -> stop = true; wake(); break
    :: break
    od
}

active proctype sampler()
{
    mtype seen;
    bool won;
    do
    :: stop -> goto end_of_thread
    :: else ->
        do
        :: stop -> break
        :: look -> look = false
        :: armed == 0 && !watch -> break
        :: armed != 0 || watch ->
            touching = true;
            assert(!held);
            touching = false;
            if
            :: d_step { armed > 0 -> armed-- } /* reclaim */
            :: true
            fi;
            if
            :: armed == 0 -> break /* with `watch` too: it is asked to rest */
            :: true
            fi
        od;
        /* park */
#ifdef BREAK_CHECK_FIRST
        if
        :: armed != 0 || look || stop -> state = PARKED; wake()
        :: else -> state = PARKED
        fi;
#else
        state = PARKED;
        if
        :: armed != 0 || look || stop -> wake()
        :: else
        fi;
#endif
        do
        :: d_step { state != RUNNING -> seen = state };
            nap = watch;
            atomic {
                if
#ifdef BREAK_WAIT_BLIND
                :: true -> sleeping = true
#else
                :: state == seen -> sleeping = true
                :: else
#endif
                fi
            };
end_asleep:
            if
            :: !sleeping
            :: nap && sleeping -> sleeping = false; wake() /* in vain if it is held */
            fi
        :: state == RUNNING -> break
        od
    od;
end_of_thread:
    skip
}

/* Nothing can move any more. */
active proctype observer()
{
    timeout -> assert(!sleeping || (armed == 0 && !look && !stop && !watch))
}
