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

const struct world_scenario world_scenarios[] = {
    {
        .name = "steady",
        .tells = "the same load all the time",
        COMMON(10),
        .cycles = 300,
        .load = steady,
        .rate = 20,
        .latency = 0.005,
        .cpu = 0.003,
        .endpoints = 10,
        .hot = 0.3,
        .steady_at = 60,
    },
    {
        .name = "bursts",
        .tells = "three seconds of ten times the load, again and again",
        COMMON(10),
        .cycles = 300,
        .load = bursts,
        .rate = 10,
        .latency = 0.005,
        .cpu = 0.003,
        .endpoints = 10,
        .hot = 0.3,
    },
    {
        .name = "diurnal",
        .tells = "from next to nothing to a full load and back",
        COMMON(10),
        .cycles = 700,
        .load = diurnal,
        .rate = 30,
        .latency = 0.01,
        .cpu = 0.008,
        .endpoints = 10,
        .hot = 0.3,
    },
    {
        .name = "idle, then a spike",
        .tells = "nothing for minutes, then all at once",
        COMMON(10),
        .cycles = 900,
        .load = idle_then_spike,
        .rate = 10,
        .latency = 0.02,
        .cpu = 0.005,
        .endpoints = 10,
        .hot = 0.3,
    },
    {
        .name = "hot",
        .tells = "one hot endpoint among a thousand",
        COMMON(10),
        .cycles = 300,
        .load = steady,
        .rate = 50,
        .latency = 0.005,
        .cpu = 0.004,
        .endpoints = 1000,
        .hot = 0.9,
        .steady_at = 60,
    },
    {
        .name = "liar",
        .tells = "one worker claims a core and a half for its sampler",
        COMMON(10),
        .cycles = 300,
        .load = steady,
        .rate = 20,
        .latency = 0.005,
        .cpu = 0.003,
        .endpoints = 10,
        .hot = 0.3,
        .lie = WORLD_CLAIMS_MUCH,
        .steady_at = 60,
    },
    {
        .name = "waiting",
        .tells = "requests that wait for half a second and compute next to nothing",
        COMMON(0),
        .cycles = 300,
        .load = steady,
        .rate = 4,
        .latency = 0.5,
        .cpu = 0.001,
        .endpoints = 10,
        .hot = 0.3,
        .steady_at = 60,
    },
    {
        .name = "uncapped",
        .tells = "every action may be profiled, and there are many",
        COMMON(0),
        .cycles = 300,
        .load = steady,
        .rate = 150,
        .latency = 0.005,
        .cpu = 0.004,
        .endpoints = 10,
        .hot = 0.3,
        .steady_at = 60,
    },
    {
        .name = "falls",
        .tells = "a full load that falls to a sixtieth",
        COMMON(0),
        .cycles = 300,
        .load = falls,
        .rate = 2,
        .latency = 0.005,
        .cpu = 0.001,
        .endpoints = 10,
        .hot = 0.3,
        .fallen_at = 120,
        .steady_at = 200,
    },
    {
        .name = "on and off",
        .tells = "a load that changes each second",
        COMMON(10),
        .cycles = 300,
        .load = on_and_off,
        .rate = 20,
        .latency = 0.02,
        .cpu = 0.004,
        .endpoints = 10,
        .hot = 0.3,
    },
    {
        .name = "stalls",
        .tells = "what took milliseconds waits for five seconds, all at once",
        COMMON(0),
        .cycles = 300,
        .load = steady,
        .rate = 20,
        .stall = 5,
        .latency = 0.005,
        .cpu = 0.001,
        .endpoints = 10,
        .hot = 0.3,
    },
    {.name = NULL},
};
