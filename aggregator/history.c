/* The last hour of a pool's budget: see history.h. */
#include "aggregator/history.h"

#include <math.h>

static bool differ(const struct budget_limits *a, const struct budget_limits *b)
{
    return a->interval_ns != b->interval_ns || a->granularity != b->granularity || a->cap != b->cap ||
           a->paused != b->paused || a->passthrough != b->passthrough;
}

static uint64_t first_of(uint64_t count, uint64_t room)
{
    return count > room ? count - room : 0;
}

uint64_t history_first_decision(const struct history *history)
{
    return first_of(history->decisions, HISTORY_DECISIONS);
}

uint64_t history_first_point(const struct history *history)
{
    return first_of(history->points, HISTORY_POINTS);
}

static struct history_point *point_for(struct history *history, const struct budget_measure *measure,
                                       uint64_t real_ns)
{
    struct history_point *newest = &history->point[(history->points - 1) % HISTORY_POINTS];
    if (history->points != 0 && newest->seconds + measure->seconds / 2 < HISTORY_POINT_S)
        return newest;
    newest = &history->point[history->points++ % HISTORY_POINTS];
    *newest = (struct history_point){
        .start_real_ns = real_ns - (uint64_t)(measure->seconds * 1e9),
        .granularity = UINT32_MAX,
    };
    return newest;
}

void history_decide(struct history *history, const struct budget_limits *from, const struct budget_limits *to,
                    double overhead, uint64_t real_ns)
{
    if (differ(from, to))
        history->decision[history->decisions++ % HISTORY_DECISIONS] =
            (struct history_decision){real_ns, overhead, *from, *to};
}

void history_note(struct history *history, const struct budget_measure *measure,
                  const struct budget_limits *from, const struct budget_limits *to, double overhead,
                  uint64_t real_ns)
{
    struct history_point *point = point_for(history, measure, real_ns);
    point->seconds += measure->seconds;
    point->sampler_cpu += measure->sampler_cpu;
    point->hook_cpu += measure->hook_cpu;
    point->aggregator_cpu += measure->aggregator_cpu;
    point->worker_cpu += measure->worker_cpu;
    point->attached += measure->attached;
    point->demand += measure->demand;
    point->admitted += measure->admitted;
    point->overhead = fmax(point->overhead, overhead);
    /* What held in the cycle were the limits before it. */
    if (point->interval_ns < from->interval_ns)
        point->interval_ns = from->interval_ns;
    if (point->granularity > from->granularity)
        point->granularity = from->granularity;
    point->paused += from->paused;
    point->passthrough += from->passthrough;
    history_decide(history, from, to, overhead, real_ns);
}
