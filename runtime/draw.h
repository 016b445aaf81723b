/*
 * Draw: a fair choice of `most` out of `count` things, each with the same probability, in their order.
 *
 * Systematic: one random start, then every (count / most)-th. So each is chosen with probability most / count
 * at every draw, whatever was chosen before; what is chosen stands for count / most of them. With `count` not
 * above `most` all are chosen.
 */
#ifndef RUNTIME_DRAW_H
#define RUNTIME_DRAW_H

#include <stdbool.h>
#include <stdint.h>

struct draw {
    uint64_t at, step; /* 32.32 fixed point */
    uint32_t left;
};

/** `random` is a uniform 64-bit number; it is not used where all are chosen. `count` is below 2^31. */
static inline struct draw draw_begin(uint32_t count, uint32_t most, uint64_t random)
{
    if (count <= most)
        return (struct draw){.step = UINT64_C(1) << 32, .left = count};
    uint64_t step = ((uint64_t)count << 32) / most;
    return (struct draw){.at = random % step, .step = step, .left = most};
}

/** The next one's index, ascending; false after the last. */
static inline bool draw_next(struct draw *draw, uint32_t *index)
{
    if (draw->left == 0)
        return false;
    draw->left--;
    *index = (uint32_t)(draw->at >> 32);
    draw->at += draw->step;
    return true;
}

/** What each chosen one stands for, where one of `count` stands for `each`. */
static inline uint64_t draw_weight(uint32_t count, uint32_t most, uint64_t each)
{
    return count <= most ? each : (uint64_t)((double)each * count / most);
}

#endif
