/*
 * Doorbell: a worker whose lane fills wakes the aggregator, which sleeps between its rounds.
 *
 * What is shown: no ring is lost, so the aggregator never sleeps for good while a lane waits for it, as long as no worker is
 * killed between taking the ring and ringing; and for that case, that its time-out lets it find what is there.
 *
 *   step here                         in the code
 *   worker: lane                      lane_put (shm/lane.h) beyond the mark
 *   worker: take                      budget_take_ring (shm/budget.h): one exchange of `listening`, behind a fence
 *   worker: ring                      limits_ring (runtime/limits.c): utimensat on the page's file, which puts an event into
 *                                     the queue of the aggregator's inotify watch
 *   aggregator: listen, drain         pool_round (aggregator/pool.c): budget_listen and its fence before the tails are read
 *   aggregator: sleep, wake           sleep_until (aggregator/service.c): epoll_wait returns at once while an event is queued;
 *                                     then it is taken from the queue
 *   time-out                          the pace of rounds
 *
 * Both sides store, then load the other's word, with a sequentially consistent fence in between.
 *
 * Broken variants: BREAK_LISTEN_LATE, BREAK_LOOK_FIRST, BREAK_DISCARD (events are thrown away before it sleeps),
 * BREAK_NO_TIME_OUT.
 */
#define WORKERS 2
#define RINGS 2 /* of each worker */

byte lane, drained; /* how much was put, by all; how much was read */
bool listening, event, asleep;
bool killed; /* a worker, between taking and ringing */

inline take(was_listening)
{
    d_step {
        was_listening = listening;
        listening = false
    }
}

active [WORKERS] proctype worker()
{
    byte rings;
    bool mine;
    do
    :: rings < RINGS ->
        rings++;
#ifdef BREAK_LOOK_FIRST
        take(mine);
        lane++;
#else
        lane++;
        take(mine);
#endif
        if
        :: mine ->
            if
            :: killed = true; break
            :: event = true
            fi
        :: else
        fi
    :: else -> break
    od
}

active proctype aggregator()
{
    do
    :: drained == WORKERS * RINGS -> break
    :: else ->
#ifndef BREAK_LISTEN_LATE
        listening = true;
#endif
        drained = lane;
#ifdef BREAK_LISTEN_LATE
        listening = true;
#endif
#ifdef BREAK_DISCARD
        event = false;
#endif
        asleep = true;
end_asleep:
        if
        :: event -> event = false
#ifndef BREAK_NO_TIME_OUT
        :: killed && drained != lane /* only then, so as not to hide a lost ring */
#endif
        fi;
        asleep = false
    od
}

/* Nothing can move any more. */
active proctype observer()
{
    timeout -> assert(!asleep || drained == lane)
}
