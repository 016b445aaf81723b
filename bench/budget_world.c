/* A pool in numbers: see budget_world.h. */
#include "bench/budget_world.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/admission.h"
#include "aggregator/pace.h"

/* What things cost, in seconds of CPU: the dearer end of what was measured on machines with other work to do.
 */
#define HOOK_CPU 1.5e-6
#define ACTION_CPU 30e-6 /* a profiled action's hooks */
#define WAKE_CPU 12e-6   /* a parked sampler's wake, paid by the hook */
#define TICK_CPU 25e-6
#define THREAD_CPU 4e-6 /* each further thread in a tick */
#define ROUND_CPU 30e-6 /* the aggregator: a look at all … */
#define LOOK_CPU 4e-6   /* … and at each worker */
#define CYCLE_CPU 80e-6
#define ACCOUNT_CPU 1e-6 /* a worker's clocks, once a cycle */
#define SAMPLE_CPU 0.5e-6
#define MERGE_CPU 40e-6 /* a profiled action: its records, its end, its messages */
#define IDLE_CPU 0.0005 /* a worker's own, a second, without requests */

enum {
    STEPS_A_WINDOW = BUDGET_CYCLES * WORLD_STEPS_A_CYCLE,
    STEPS_MOST = WORLD_CYCLES_MOST * WORLD_STEPS_A_CYCLE,
    LASTS_MOST = 256, /* steps that an action may last */
};

/* ---- chance -------------------------------------------------------------------------------------------- */

static double uniform(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return ((double)(*random >> 11) + 0.5) / 9007199254740992.0;
}

static double normal(uint64_t *random)
{
    return sqrt(-2 * log(uniform(random))) * cos(2 * 3.14159265358979323846 * uniform(random));
}

static double poisson(uint64_t *random, double mean)
{
    if (mean > 50)
        return fmax(0, floor(mean + sqrt(mean) * normal(random) + 0.5));
    double limit = exp(-mean), product = uniform(random);
    unsigned n = 0;
    for (; product > limit; n++)
        product *= uniform(random);
    return n;
}

static double binomial(uint64_t *random, double n, double p)
{
    if (p >= 1)
        return n;
    if (n * p > 50 && n * (1 - p) > 50)
        return fmin(n, fmax(0, floor(n * p + sqrt(n * p * (1 - p)) * normal(random) + 0.5)));
    if (n > 1000)
        return fmin(n, poisson(random, n * p));
    double hits = 0;
    for (double i = 0; i < n; i++)
        hits += uniform(random) < p;
    return hits;
}

/* ---- the world ----------------------------------------------------------------------------------------- */

/* Sums since some moment; the names are those of struct budget_measure. */
struct spent {
    double sampler_cpu, hook_cpu, aggregator_cpu, worker_cpu;
};

struct world {
    const struct world_scenario *scenario;
    uint64_t random;
    struct budget_state state;
    struct admission admission;
    struct pace pace;
    struct budget_limits limits;
    uint32_t probability[STRATA];
    uint64_t seen[STRATA];          /* in this cycle */
    double used;                    /* tokens of this cycle */
    double ending[LASTS_MOST];      /* actions that end in the step, by its number */
    double open;                    /* profiled actions under way */
    struct spent now, told, before; /* in all; as the aggregator has read it; of that at the cycle's begin */
    double admitted, admitted_before;
    double until_round; /* s */
    double published_sampler_cpu;
    bool moved, decided;
    bool caught; /* the liar */
};

static double cost(const struct spent *spent)
{
    return spent->sampler_cpu + spent->hook_cpu + spent->aggregator_cpu;
}

/* How many of `n` actions that begin in stratum `s` are profiled: lottery with its back-off, then a token. */
static double admit(struct world *world, unsigned s, double n)
{
    double p = ((double)world->probability[s] + 1) / 4294967296.0, cap = world->limits.cap;
    if (world->limits.paused || n <= 0)
        return 0;
    double left = cap > 0 ? 1 - world->used / cap : 1;
    for (double mark = p < 1 ? 0.5 : 0.25; left <= mark && mark > 0.005; mark /= 2)
        p /= 2;
    double drawn = binomial(&world->random, n, p);
    if (cap > 0)
        drawn = fmin(drawn, fmax(0, cap - world->used));
    world->used += drawn;
    return drawn;
}

static double latency_at(const struct world_scenario *scenario, unsigned step)
{
    unsigned second = step / WORLD_STEPS_A_CYCLE;
    return scenario->stall > 0 && second >= 100 && second % 100 < 25 ? scenario->stall : scenario->latency;
}

/* The first ones have strata to themselves, as those that were seen first have. */
static unsigned stratum_of(unsigned endpoint)
{
    return endpoint < STRATA_OWNED ? endpoint : STRATA_OWNED + endpoint % STRATA_SETS;
}

static void requests_come(struct world *world, unsigned step, double load)
{
    const struct world_scenario *scenario = world->scenario;
    double rate = scenario->rate * scenario->workers * load * WORLD_STEP_S, all = 0, profiled = 0;
    double others = scenario->endpoints > 1 ? (1 - scenario->hot) / (scenario->endpoints - 1) : 0;
    double share[STRATA] = {0};
    for (unsigned e = 0; e < scenario->endpoints; e++)
        share[stratum_of(e)] += e == 0 ? (scenario->endpoints > 1 ? scenario->hot : 1) : others;
    unsigned first = (unsigned)(uniform(&world->random) * STRATA);
    for (unsigned i = 0; i < STRATA; i++) {
        unsigned s = (first + i) % STRATA;
        double n = share[s] > 0 ? poisson(&world->random, rate * share[s]) : 0;
        world->now.worker_cpu += n * scenario->cpu;
        if (world->limits.passthrough)
            continue;
        world->seen[s] += (uint64_t)n;
        all += n;
        profiled += admit(world, s, n);
    }
    world->now.worker_cpu += IDLE_CPU * WORLD_STEP_S * scenario->workers;
    world->now.hook_cpu += all * HOOK_CPU + profiled * (ACTION_CPU + WAKE_CPU);
    world->now.aggregator_cpu += profiled * MERGE_CPU;
    world->admitted += profiled;
    world->moved |= all > 0;
    /* Armed: what was open before, all step long; of what came now the short ones as long as they last, the
     * long ones half the step on average, and then on. */
    double latency = latency_at(scenario, step);
    bool lasts = latency > WORLD_STEP_S;
    double threads = world->open + profiled * (lasts ? 0.5 : latency / WORLD_STEP_S);
    if (lasts) {
        unsigned steps = (unsigned)fmin(latency / WORLD_STEP_S, LASTS_MOST - 1);
        world->open += profiled;
        world->ending[(step + steps) % LASTS_MOST] += profiled;
    }
    double armed = scenario->workers * (1 - exp(-threads / scenario->workers));
    double ticks = armed * WORLD_STEP_S * 1e9 / (double)world->limits.interval_ns;
    double samples = threads * WORLD_STEP_S * 1e9 / (double)world->limits.interval_ns;
    world->now.sampler_cpu += ticks * TICK_CPU + fmax(samples - ticks, 0) * THREAD_CPU;
    world->now.aggregator_cpu += samples * SAMPLE_CPU;
    world->open -= world->ending[step % LASTS_MOST];
    world->ending[step % LASTS_MOST] = 0;
}

static struct budget_measure measure(struct world *world, double seconds)
{
    double demand = 0, workers = world->scenario->workers;
    for (unsigned s = 0; s < STRATA; s++)
        demand += (double)world->seen[s];
    struct budget_measure m = {
        .seconds = seconds,
        .sampler_cpu = world->told.sampler_cpu - world->before.sampler_cpu,
        .hook_cpu = world->told.hook_cpu - world->before.hook_cpu,
        .aggregator_cpu = world->now.aggregator_cpu - world->before.aggregator_cpu,
        .worker_cpu = world->now.worker_cpu - world->before.worker_cpu,
        .attached = workers * seconds,
        .demand = demand,
        .admitted = world->admitted - world->admitted_before,
    };
    if (world->scenario->lie != WORLD_HONEST) {
        /* What it says counts for no more than the CPU that the kernel saw it use. */
        double used = (m.worker_cpu + m.sampler_cpu + m.hook_cpu) / workers;
        double says = 1.5 * seconds, true_part = m.sampler_cpu / workers;
        /* … and while the budget is short the dearest claim is checked against the kernel's account of that
         * thread. */
        world->caught |= world->state.work < 1 && world->scenario->lie == WORLD_CLAIMS_MUCH;
        double counts = world->caught ? true_part : fmin(says, used);
        m.sampler_cpu += counts - true_part;
        m.worker_cpu -= counts - true_part;
    }
    return m;
}

/* The aggregator looks at its workers. */
static void look(struct world *world, double into_cycle, bool *braked)
{
    const struct world_scenario *scenario = world->scenario;
    world->now.aggregator_cpu += ROUND_CPU + LOOK_CPU * scenario->workers;
    world->told = world->now;
    world->told.sampler_cpu = world->published_sampler_cpu;
    struct budget_measure so_far = measure(world, into_cycle);
    if (!scenario->unbraked && into_cycle < 0.95 &&
        budget_brake(&world->state, &scenario->asked, &so_far, world->pace.ms / 1e3 + WORLD_STEP_S,
                     &world->limits))
        *braked = true;
    struct pace_facts facts = {
        .attached = scenario->workers,
        .moved = world->moved,
        .cycle = world->decided,
        .own = pace_own(&world->state, &scenario->asked),
        .spent = pace_spent(&world->state, &scenario->asked),
    };
    world->decided = false;
    world->until_round = pace_next(&world->pace, &facts) / 1e3;
    world->moved = false;
}

static void decide(struct world *world)
{
    struct budget_measure whole = measure(world, 1.0);
    world->now.aggregator_cpu += CYCLE_CPU + ACCOUNT_CPU * world->scenario->workers;
    budget_step(&world->state, &world->scenario->asked, &whole, &world->limits);
    admission_step(&world->admission, world->seen, world->limits.lottery, world->probability);
    memset(world->seen, 0, sizeof world->seen);
    world->before = world->told;
    world->before.aggregator_cpu = world->now.aggregator_cpu;
    world->before.worker_cpu = world->now.worker_cpu;
    world->admitted_before = world->admitted;
    world->used = 0;
    world->decided = true;
}

void world_play(const struct world_scenario *scenario, uint64_t seed, struct world_cycle *cycle)
{
    struct world *world = calloc(1, sizeof *world);
    struct spent *at = calloc(scenario->cycles * WORLD_STEPS_A_CYCLE + 1, sizeof *at);
    world->scenario = scenario;
    world->random = seed * 0x9E3779B97F4A7C15u + 1;
    world->limits = (struct budget_limits){
        .interval_ns = scenario->asked.interval_ns,
        .granularity = scenario->asked.granularity,
        .cap = scenario->asked.cap,
        .lottery = scenario->asked.cap,
    };
    memset(world->probability, 0xFF, sizeof world->probability);
    for (unsigned c = 0; c < scenario->cycles; c++) {
        struct world_cycle *this = &cycle[c];
        double admitted = world->admitted;
        *this = (struct world_cycle){.load = scenario->load(c)};
        for (unsigned i = 0; i < WORLD_STEPS_A_CYCLE; i++) {
            unsigned step = c * WORLD_STEPS_A_CYCLE + i;
            requests_come(world, step, scenario->load(c + i * WORLD_STEP_S));
            world->until_round -= WORLD_STEP_S;
            if (world->until_round < WORLD_STEP_S / 2 || i + 1 == WORLD_STEPS_A_CYCLE)
                look(world, (i + 1) * WORLD_STEP_S, &this->braked);
            world->published_sampler_cpu = world->now.sampler_cpu;
            at[step + 1] = world->now;
            if (step + 1 < 2 * STEPS_A_WINDOW)
                continue;
            const struct spent *from = &at[step + 1 - STEPS_A_WINDOW], *to = &at[step + 1];
            double against =
                fmax(to->worker_cpu - from->worker_cpu, BUDGET_FLOOR * scenario->workers * BUDGET_CYCLES);
            this->overhead = fmax(this->overhead, (cost(to) - cost(from)) / against);
        }
        for (unsigned s = 0; s < STRATA; s++)
            this->demand += (double)world->seen[s];
        this->admitted = world->admitted - admitted;
        decide(world);
        this->limits = world->limits;
        const struct spent *from = &at[c * WORLD_STEPS_A_CYCLE], *to = &at[(c + 1) * WORLD_STEPS_A_CYCLE];
        this->ours_cpu = cost(to) - cost(from);
        this->worker_cpu = to->worker_cpu - from->worker_cpu;
    }
    free(at);
    free(world);
}

/* ---- what is asked of it ------------------------------------------------------------------------------- */

bool world_feasible(const struct world_scenario *scenario)
{
    double least = ROUND_CPU + CYCLE_CPU + (LOOK_CPU + ACCOUNT_CPU) * scenario->workers;
    return least <= 0.25 * scenario->asked.max_overhead * BUDGET_FLOOR * scenario->workers;
}

double world_worst(const struct world_scenario *scenario, const struct world_cycle *cycle)
{
    double worst = 0;
    for (unsigned c = 0; c < scenario->cycles; c++)
        worst = fmax(worst, cycle[c].overhead);
    return worst;
}

double world_swing(const struct world_scenario *scenario, const struct world_cycle *cycle)
{
    double mean = 0, worst = 0, n = scenario->cycles - scenario->steady_at;
    for (unsigned c = scenario->steady_at; c < scenario->cycles; c++)
        mean += (double)cycle[c].limits.interval_ns / n;
    for (unsigned c = scenario->steady_at; c < scenario->cycles; c++)
        worst = fmax(worst, fabs((double)cycle[c].limits.interval_ns / mean - 1));
    return worst;
}

unsigned world_recovery(const struct world_scenario *scenario, const struct world_cycle *cycle)
{
    unsigned at = scenario->cycles;
    while (at > scenario->fallen_at && cycle[at - 1].limits.interval_ns == scenario->asked.interval_ns)
        at--;
    return at - scenario->fallen_at;
}
