/* What a pool was asked to keep to, what it costs, and the limits that follow: see pool_parts.h. */
#include "aggregator/pool_parts.h"

#include <string.h>
#include <unistd.h>

#include "aggregator/claims.h"
#include "shm/clock.h"

static void publish_rates(struct pool *pool, const uint32_t probability[STRATA])
{
    struct rates rates = {
        .interval_ns = pool->limits.interval_ns,
        .cycle_ns = POOL_CYCLE_NS,
        .cap = pool->limits.cap,
        .granularity = pool->limits.granularity,
        .paused = pool->limits.paused,
        .passthrough = pool->limits.passthrough,
        .process = pool->process_scope,
    };
    memcpy(rates.probability, probability, sizeof rates.probability);
    memcpy(rates.owner, pool->admission.owner, sizeof rates.owner);
    memcpy(rates.late_after_us, pool->late.after_us, sizeof rates.late_after_us);
    memcpy(rates.late_probability, pool->late.probability, sizeof rates.late_probability);
    if (pool->told && memcmp(&rates, &pool->published, sizeof rates) == 0)
        return;
    pool->told = pages_publish(&pool->pages, &rates);
    pool->published = rates;
}

void pool_limits_retell(struct pool *pool)
{
    uint32_t probability[STRATA];
    memcpy(probability, pool->published.probability, sizeof probability);
    pool->told = false;
    publish_rates(pool, probability);
    pages_heartbeat(&pool->pages, clock_monotonic_ns());
}

/* An aggregator that takes over goes on with the limits that stand there: demand and cost are what they were.
 */
static bool take_over_limits(struct pool *pool)
{
    struct rates rates = {0};
    if (!pages_published(&pool->pages, &rates) || rates.interval_ns < pool->asked.interval_ns ||
        rates.cap != pool->asked.cap || rates.granularity > pool->asked.granularity || rates.paused ||
        rates.passthrough)
        return false;
    budget_resume(&pool->budget_state, &pool->asked, rates.interval_ns, rates.granularity);
    admission_resume(&pool->admission, rates.probability, rates.owner);
    pool->limits = (struct budget_limits){
        .interval_ns = rates.interval_ns,
        .granularity = rates.granularity,
        .cap = rates.cap,
        .lottery = rates.cap,
        .reason = BUDGET_TAKEN_OVER,
    };
    publish_rates(pool, rates.probability);
    return true;
}

/* Until the first cycle: what is asked for, everything admitted up to the cap. A pool's folder comes before
 * what is asked for in it; nobody is to go by the defaults meanwhile, so they are not told before the first
 * cycle. */
static void first_limits(struct pool *pool, bool asked)
{
    pool->limits = (struct budget_limits){
        .interval_ns = pool->asked.interval_ns,
        .granularity = pool->asked.granularity,
        .cap = pool->asked.cap,
        .lottery = pool->asked.cap,
    };
    uint32_t probability[STRATA];
    for (int i = 0; i < STRATA; i++)
        probability[i] = UINT32_MAX;
    if (asked)
        publish_rates(pool, probability);
}

/* Whether anybody has asked for anything. */
static bool take_over_requests(struct pool *pool)
{
    struct asked asked = requests_limits(&pool->requests, pool->config);
    pool->asked = asked.limits;
    pool->process_scope = asked.process_scope;
    pool->merge.types.limit = 1 + asked.action_types; /* and "(other)"; what is known already stays known */
    return !asked.by_nobody;
}

void pool_judge_requests(struct pool *pool)
{
    bool asked = take_over_requests(pool);
    /* Later on it comes with the next cycle. */
    if (pool->budget_state.cycles == 0)
        first_limits(pool, asked);
}

void pool_limits_begin(struct pool *pool)
{
    bool asked = take_over_requests(pool);
    if (!take_over_limits(pool))
        first_limits(pool, asked);
}

/* Not below what stood there when the cycle began. */
static void take_back(uint64_t *sum, uint64_t excess, uint64_t least)
{
    *sum -= excess < *sum - least ? excess : *sum - least;
}

void pool_account(struct pool *pool, uint64_t aggregator_cpu_ns, uint64_t now_ns)
{
    static long cores;
    if (cores <= 0)
        cores = sysconf(_SC_NPROCESSORS_ONLN) > 0 ? sysconf(_SC_NPROCESSORS_ONLN) : 1;
    struct window_sums *sums = &pool->merge.open->sums;
    uint64_t passed = now_ns - pool->accounted_at_ns, used = 0;
    pool->accounted_at_ns = now_ns;
    uint64_t claimed = sums->sampler_cpu_ns + sums->hook_cpu_ns - pool->own_cpu_ns;
    for (struct worker *worker = pool->workers; worker != NULL; worker = worker->next) {
        if (worker->final || worker->quarantined)
            continue;
        uint64_t process = worker_cpu(worker, passed * (uint64_t)cores);
        struct claim claim = claims_take(worker);
        used += process;
        if (claims_stand_out(worker, &claim, claimed)) {
            struct claim excess = claims_excess(worker, &claim, process);
            take_back(&sums->sampler_cpu_ns, excess.sampler_ns, pool->cycle_base.sampler_cpu_ns);
            take_back(&sums->hook_cpu_ns, excess.hook_ns, pool->cycle_base.hook_cpu_ns);
        }
        uint64_t attached = now_ns > worker->attached_ns ? now_ns - worker->attached_ns : 0;
        if (!worker->dead && !worker->closed)
            sums->attached_ns += attached < passed ? attached : passed;
    }
    uint64_t left = sums->sampler_cpu_ns + sums->hook_cpu_ns;
    uint64_t ours = left > pool->own_cpu_ns ? left - pool->own_cpu_ns : 0;
    pool->own_cpu_ns = sums->sampler_cpu_ns + sums->hook_cpu_ns;
    sums->worker_cpu_ns += used > ours ? used - ours : 0;
    sums->aggregator_cpu_ns += aggregator_cpu_ns;
    pool->merge.open->end_ns = now_ns;
    pool->merge.open->end_real_ns = clock_realtime_ns();
}

static struct budget_measure measure(const struct pool *pool, uint64_t now_ns)
{
    const struct window_sums *sums = &pool->merge.open->sums, *base = &pool->cycle_base;
    double demand = 0;
    for (int i = 0; i < STRATA; i++)
        demand += (double)pool->seen[i];
    return (struct budget_measure){
        .seconds = (double)(now_ns - pool->cycle_at_ns) / 1e9,
        .sampler_cpu = (double)(sums->sampler_cpu_ns - base->sampler_cpu_ns) / 1e9,
        .hook_cpu = (double)(sums->hook_cpu_ns - base->hook_cpu_ns) / 1e9,
        .aggregator_cpu = (double)(sums->aggregator_cpu_ns - base->aggregator_cpu_ns) / 1e9,
        .worker_cpu = (double)(sums->worker_cpu_ns - base->worker_cpu_ns) / 1e9,
        .attached = (double)(sums->attached_ns - base->attached_ns) / 1e9,
        .demand = demand,
        .admitted = (double)(sums->admitted - base->admitted),
    };
}

/* What this cycle cost up to now; of the workers' CPU and ours only what was accounted for. */
static struct budget_measure so_far(const struct pool *pool, uint64_t aggregator_cpu_ns, uint64_t now_ns)
{
    struct budget_measure cost = measure(pool, now_ns);
    cost.aggregator_cpu += (double)aggregator_cpu_ns / 1e9;
    cost.attached = pool->attached * cost.seconds;
    return cost;
}

bool pool_would_brake(const struct pool *pool, uint64_t aggregator_cpu_ns, double ahead_s, uint64_t now_ns)
{
    struct budget_measure cost = so_far(pool, aggregator_cpu_ns, now_ns);
    return budget_would_brake(&pool->budget_state, &pool->asked, &cost, ahead_s, &pool->limits);
}

void pool_brake(struct pool *pool, double ahead_s, uint64_t now_ns)
{
    struct budget_measure cost = so_far(pool, 0, now_ns);
    struct budget_limits before = pool->limits;
    if (!budget_brake(&pool->budget_state, &pool->asked, &cost, ahead_s, &pool->limits))
        return;
    history_decide(&pool->history, &before, &pool->limits, budget_overhead(&pool->budget_state),
                   clock_realtime_ns());
    uint32_t probability[STRATA];
    memcpy(probability, pool->published.probability, sizeof probability);
    publish_rates(pool, probability);
}

/* Types get strata of their own, and it is looked up from when on those that have one may be admitted late.
 */
static void look_at_types(struct pool *pool, struct admission_moment moment[STRATA_OWNED])
{
    memset(moment, 0, STRATA_OWNED * sizeof *moment);
    for (uint32_t type = 1; type < MERGE_TYPES_MOST && type < names_count(&pool->merge.types); type++) {
        const char *name = names_text(&pool->merge.types, type);
        uint32_t hash = hash_bytes(name, strlen(name));
        if (pool->merge.ended[type] != 0)
            admission_own(&pool->admission, hash, pool->merge.ended[type]);
        pool->merge.ended[type] = 0;
        uint32_t place = admission_place(&pool->admission, hash);
        if (place != STRATA)
            moment[place].after_ns =
                merge_slow_after(&pool->merge, type, pool->limits.interval_ns, &moment[place].beyond);
    }
}

void pool_limits_step(struct pool *pool, uint64_t now_ns)
{
    struct admission_moment moment[STRATA_OWNED];
    struct budget_measure cost = measure(pool, now_ns);
    pool->cycle_at_ns = now_ns;
    pool->cycle_base = pool->merge.open->sums;
    struct budget_limits before = pool->limits;
    budget_step(&pool->budget_state, &pool->asked, &cost, &pool->limits);
    history_note(&pool->history, &cost, &before, &pool->limits, budget_overhead(&pool->budget_state),
                 clock_realtime_ns());
    uint32_t probability[STRATA];
    look_at_types(pool, moment);
    admission_step(&pool->admission, pool->seen, pool->limits.lottery, probability);
    admission_late(&pool->admission, moment, pool->limits.lottery, probability, &pool->late);
    memset(pool->seen, 0, sizeof pool->seen);
    publish_rates(pool, probability);
}
