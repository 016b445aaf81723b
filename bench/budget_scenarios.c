/* The loads that the budget is tried with: see budget_world.h. */
#include <math.h>
#include <stddef.h>

#include "bench/budget_world.h"
#include "shm/rates.h"

static double steady(double t)
{
    (void)t;
    return 1;
}

static double bursts(double t)
{
    return fmod(t, 40) >= 37 ? 10 : 1;
}

static double diurnal(double t)
{
    return 1.05 - cos(t / 600 * 2 * 3.14159265358979323846);
}

static double idle_then_spike(double t)
{
    return fmod(t, 300) < 280 ? 0 : 10;
}

static double falls(double t)
{
    return t < 120 ? 60 : 1;
}

static double on_and_off(double t)
{
    return fmod(t, 2) < 1;
}

/* What the runs change: the size of the pool, and the budget. */
#define COMMON(actions)                                                                                      \
    .workers = 8,                                                                                            \
    .asked = {                                                                                               \
        .max_overhead = 0.02, .interval_ns = 10000000, .granularity = GRANULARITY_LINE, .cap = (actions)}

/* So many requests a second and worker where the shape is 1, each of so long and so much CPU. */
#define LOAD(shape, a_second, seconds, cpu_seconds)                                                          \
    .load = (shape), .rate = (a_second), .latency = (seconds), .cpu = (cpu_seconds)

#define TEN_ENDPOINTS .endpoints = 10, .hot = 0.3

const struct world_scenario world_scenarios[] = {
    {
        .name = "steady",
        .tells = "the same load all the time",
        COMMON(10),
        .cycles = 300,
        LOAD(steady, 20, 0.005, 0.003),
        TEN_ENDPOINTS,
        .steady_at = 60,
    },
    {
        .name = "bursts",
        .tells = "three seconds of ten times the load, again and again",
        COMMON(10),
        .cycles = 300,
        LOAD(bursts, 10, 0.005, 0.003),
        TEN_ENDPOINTS,
    },
    {
        .name = "diurnal",
        .tells = "from next to nothing to a full load and back",
        COMMON(10),
        .cycles = 700,
        LOAD(diurnal, 30, 0.01, 0.008),
        TEN_ENDPOINTS,
    },
    {
        .name = "idle, then a spike",
        .tells = "nothing for minutes, then all at once",
        COMMON(10),
        .cycles = 900,
        LOAD(idle_then_spike, 10, 0.02, 0.005),
        TEN_ENDPOINTS,
    },
    {
        .name = "hot",
        .tells = "one hot endpoint among a thousand",
        COMMON(10),
        .cycles = 300,
        LOAD(steady, 50, 0.005, 0.004),
        .endpoints = 1000,
        .hot = 0.9,
        .steady_at = 60,
    },
    {
        .name = "liar",
        .tells = "one worker claims a core and a half for its sampler",
        COMMON(10),
        .cycles = 300,
        LOAD(steady, 20, 0.005, 0.003),
        TEN_ENDPOINTS,
        .lie = WORLD_CLAIMS_MUCH,
        .steady_at = 60,
    },
    {
        .name = "waiting",
        .tells = "requests that wait for half a second and compute next to nothing",
        COMMON(0),
        .cycles = 300,
        LOAD(steady, 4, 0.5, 0.001),
        TEN_ENDPOINTS,
        .steady_at = 60,
    },
    {
        .name = "uncapped",
        .tells = "every action may be profiled, and there are many",
        COMMON(0),
        .cycles = 300,
        LOAD(steady, 150, 0.005, 0.004),
        TEN_ENDPOINTS,
        .steady_at = 60,
    },
    {
        .name = "falls",
        .tells = "a full load that falls to a sixtieth",
        COMMON(0),
        .cycles = 300,
        LOAD(falls, 2, 0.005, 0.001),
        TEN_ENDPOINTS,
        .fallen_at = 120,
        .steady_at = 200,
    },
    {
        .name = "on and off",
        .tells = "a load that changes each second",
        COMMON(10),
        .cycles = 300,
        LOAD(on_and_off, 20, 0.02, 0.004),
        TEN_ENDPOINTS,
    },
    {
        .name = "stalls",
        .tells = "what took milliseconds waits for five seconds, all at once",
        COMMON(0),
        .cycles = 300,
        LOAD(steady, 20, 0.005, 0.001),
        .stall = 5,
        TEN_ENDPOINTS,
    },
    {.name = NULL},
};
