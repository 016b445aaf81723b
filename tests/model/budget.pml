/*
 * Budget word: the cap on newly profiled actions across the boundary of a cycle.
 *
 * What is shown: however workers race, are stopped and killed, no cycle gives out more than the cap, by the cycle in which
 * the actions began; also around a word that was damaged, which does not stay.
 *
 *   step here                         in the code
 *   worker: cycle = clock             action_begin reads the clock; limits_admit (runtime/limits.c) makes the cycle of it
 *   worker: load, decide, exchange    budget_take (shm/budget.h); the decision is on private values
 *   auditor: word, then clock         audit (aggregator/pages.c): the word is loaded before the clock is read
 *   auditor: exchange                 budget_audit (shm/budget.h)
 *   clock                             CLOCK_MONOTONIC / cycle length: one for all, goes on while anybody is stopped
 *   vandal                            a wild write into the word by a process that maps it: a cycle yet to come
 *
 * Spin lets every process stop between any two steps for as long as it likes. So a worker that is stopped for many cycles,
 * or killed, needs nothing of its own here: it is one that takes no further step.
 *
 * Broken variants: BREAK_OWN_CYCLE (the older cycle wins), BREAK_STORE (no compare-and-swap), BREAK_LATE_COMER (a cycle that
 * is over takes of the one that the word shows), BREAK_CLOCK_FIRST, BREAK_SET_BACK_EMPTY, BREAK_NO_AUDIT.
 */
#define WORKERS 2
#define TAKES 2 /* attempts of each */
#define CAP 2
#define CYCLES 3
#define NONE 7 /* stands for UINT32_MAX: no token is left in this cycle */

#define WORD(cycle, used) ((cycle) * 8 + (used))
#define CYCLE(word) ((word) / 8)
#define USED(word) ((word) % 8)

byte clock, word;
byte given[CYCLES]; /* for the proof only: tokens, by the cycle in which the action began */
bool quiet, audited; /* for the proof only: the vandal does nothing more; the auditor has looked since */

proctype worker()
{
    byte takes, cycle, seen, used;
    do
    :: takes < TAKES ->
        cycle = clock;
        seen = word;
again:
        used = (cycle == CYCLE(seen) -> USED(seen) : 0);
        if
#ifdef BREAK_OWN_CYCLE
        :: used >= CAP -> goto denied
#else
#ifdef BREAK_LATE_COMER
        :: cycle < CYCLE(seen) && USED(seen) >= CAP -> goto denied
        :: cycle < CYCLE(seen) && USED(seen) < CAP -> used = USED(seen)
        :: cycle >= CYCLE(seen) && used >= CAP -> goto denied
#else
        :: cycle < CYCLE(seen) || used >= CAP -> goto denied
#endif
#endif
        :: else
        fi;
        atomic {
            if
#ifdef BREAK_STORE
            :: true ->
#else
            :: word != seen -> seen = word; used = 0; goto again
            :: else ->
#endif
#ifdef BREAK_LATE_COMER
                word = WORD((cycle < CYCLE(seen) -> CYCLE(seen) : cycle), used + 1);
#else
                word = WORD(cycle, used + 1);
#endif
                given[cycle]++;
                assert(given[cycle] <= CAP)
            fi
        };
denied:
        atomic { takes++; cycle = 0; seen = 0; used = 0 }
    :: else -> break
    od
}

proctype auditor()
{
    byte now, seen;
    bool last;
    do
    :: last -> break
    :: else ->
        last = quiet; /* one more look when nothing moves it any more */
#ifdef BREAK_CLOCK_FIRST
        now = clock;
        seen = word;
#else
        seen = word;
        now = clock;
#endif
        if
        :: CYCLE(seen) > now ->
            atomic {
                if
                :: word == seen ->
#ifdef BREAK_SET_BACK_EMPTY
                    word = WORD(now, 0)
#else
#ifndef BREAK_NO_AUDIT
                    word = WORD(now, NONE)
#else
                    skip
#endif
#endif
                :: else
                fi
            }
        :: else
        fi;
        atomic { now = 0; seen = 0 }
    od;
    audited = true
}

init
{
    byte i;
    atomic {
        for (i : 1 .. WORKERS) { run worker() };
        run auditor();
        i = 0
    };
    do
    :: clock < CYCLES - 1 -> clock++
    :: CYCLE(word) <= clock && i == 0 ->
        atomic {
            i = 1; /* the vandal, once */
            if
            :: word = WORD(clock + 1, 0)
            :: word = WORD(clock + 2, 1)
            :: word = WORD(CYCLES + 2, NONE)
            fi
        }
    :: clock == CYCLES - 1 -> break
    od;
    quiet = true;
    audited -> assert(CYCLE(word) <= clock)
}
