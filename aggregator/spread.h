/*
 * Spread: what is kept of profiled actions so that the standard error of a figure can be told later.
 *
 * A figure of a type is a share of its exact wall time, estimated as r = Y / Z with Y = sum(w y), Z = sum(w
 * z): y is what was sampled of the figure (a line, a state) in one profiled action, z all that was sampled in
 * it, w = 1 / p the action's weight. Samples of one action are alike, so the action is the unit: with the
 * residuals e = y - r z, the linearised variance of Y - r Z under a lottery in which each action was drawn
 * by itself (Poisson sampling; Särndal, Swensson, Wretman, "Model Assisted Survey Sampling", 1992,
 * sections 3.5, 5.6 and 5.7) is estimated by
 *
 *     sum((1 - p) / p² e²)  +  sum(v / p)
 *
 * The second part is that of the ticks inside each action, with v the variance of e for one action: a draw
 * in two stages (the same, section 4.3). Two things bound v: e² itself, which holds it beside the difference
 * between actions; and the squares of the intervals that the ticks stand for, as if each were a draw of its
 * own, sum(t² (d - r)²), d = 1 for a tick of the figure, else 0. The smaller sum of the two is taken.
 *
 * Where late admission holds, an action's values have two parts: the first known with its p, the later one
 * with L >= p, and both with p, as the one draw decides (runtime/limits.h). Then w y stands for y1 / p + y2 /
 * L, whose variance is that of e1 and e2 with (1 - p) / p² for e1², (1 - L) / L² for e2², and twice e1 e2
 * with (1 - L) / (p L): what is kept of products takes each pair of parts with its own.
 *
 * So that r may be known last, squares are kept apart: sum(y²), sum(y z), sum(z²), each with both weights.
 * Of a line only two numbers a stack are kept, since y² = y z - y (z - y) and what stacks of one line have of
 * y z and of y (z - y) adds up: `cross` and `apart`. Of a frame further out, sum(y z) alone is known, which
 * is sum(y²) where an action is wholly inside it or wholly outside: an upper bound.
 *
 * Where the cap or a full lane cut, an action stands for f / p others, f = N / sum(w) (profile_rescale): f /
 * p then takes the place of 1 / p everywhere above. All of it adds up over windows. As r is that of all
 * windows together, differences between windows count as error: on the safe side.
 *
 * How many actions an error rests on is told by M = sum(w z) sum(w² z²) / sum(w³ z³): their number where they
 * are alike, less where a few long ones outweigh the rest.
 */
#ifndef AGGREGATOR_SPREAD_H
#define AGGREGATOR_SPREAD_H

#include "shm/record.h"

/** A sum over profiled actions of a product of two of their values, with weights that together are 1 / p², or
 * the product of those of two parts. */
struct product {
    float shed; /* (1 - p) / p² */
    float kept; /* 1 / p */
};

/** Of one stack in actions of one type. All sums are in s², so that no honest weight leads out of a float. */
struct stack_spread {
    struct product cross; /* y z, y of the stack */
    struct product apart; /* y (z - y'): y of the stack, y' of its leaf's line */
    float ticks;          /* t² / p */
};

/** Of all profiled actions of one type. */
struct type_spread {
    struct product all;                  /* z² */
    struct product own[SAMPLE_STATES];   /* y², y of the state */
    struct product cross[SAMPLE_STATES]; /* y z */
    /* for the run delay, and for the CPU time, as a share of latency: y², y z, z², z the latency */
    struct product run_own, run_cross, run_latency, cpu_own, cpu_cross, cpu_latency;
    float ticks[SAMPLE_STATES]; /* t² / p */
    float cubes;                /* (z / p)³ */
    float slow, typical;        /* (z / p)², of actions of the class */
};

#endif
