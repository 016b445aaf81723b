/* A worker that claims more than it costs does not take the others' part of the budget. */
#include <check.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "aggregator/pool.h"
#include "tests/unit/suite.h"
#include "tests/unit/synthetic.h"

static struct synthetic s;
static struct pool *pool;
static struct config config;
static uint64_t now_ns;

static void setup(void)
{
    synthetic_directory(&s);
    synthetic_attach(&s);
    atomic_store(&s.segment.worker->sampler_tid, (uint32_t)syscall(SYS_gettid));
    ck_assert_int_eq(pool_open(&pool, s.directory, s.name, &config), 0);
    now_ns = clock_monotonic_ns();
}

static void teardown(void)
{
    pool_close(pool);
    synthetic_end(&s);
}

/* A second in which the worker says that its sampler and its hooks used so much more. Returns what is
 * believed. */
static struct claim claim_more(uint64_t sampler_ns, uint64_t hook_ns)
{
    struct worker_page *page = s.segment.worker;
    atomic_fetch_add(&page->sampler_cpu_ns, sampler_ns);
    atomic_fetch_add(&page->hook_cpu_ns, hook_ns);
    struct window_sums before = pool->merge.open->sums;
    pool_round(pool);
    now_ns += NS_PER_SECOND;
    pool_account(pool, 0, now_ns);
    struct window_sums *after = &pool->merge.open->sums;
    return (struct claim){after->sampler_cpu_ns - before.sampler_cpu_ns,
                          after->hook_cpu_ns - before.hook_cpu_ns};
}

static void compute(uint64_t ns)
{
    uint64_t until = clock_read_ns(CLOCK_THREAD_CPUTIME_ID) + ns;
    while (clock_read_ns(CLOCK_THREAD_CPUTIME_ID) < until) {
    }
}

START_TEST(a_sampler_that_claims_more_than_its_thread_used_counts_with_what_the_kernel_says)
{
    for (int i = 0; i < 3; i++) {
        compute(2000000);
        struct claim believed = claim_more(1500000000, 0);
        ck_assert_msg(believed.sampler_ns < 500000000, "%llu ns in second %d",
                      (unsigned long long)believed.sampler_ns, i);
        if (i > 0) /* what the thread did use still counts */
            ck_assert_uint_ge(believed.sampler_ns, 2000000);
    }
}
END_TEST

START_TEST(an_honest_worker_is_believed)
{
    for (int i = 0; i < 3; i++) {
        compute(5000000);
        struct claim believed = claim_more(5000000, 1000000);
        ck_assert_uint_eq(believed.sampler_ns, 5000000);
        ck_assert_uint_eq(believed.hook_ns, 1000000);
    }
}
END_TEST

START_TEST(hooks_cost_no_more_than_the_process_used)
{
    claim_more(0, 0);
    struct claim believed = claim_more(0, 60 * NS_PER_SECOND);
    ck_assert_uint_lt(believed.hook_ns, 10 * NS_PER_SECOND);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("claims");
    TCase *cases = tcase_create("promises");
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, a_sampler_that_claims_more_than_its_thread_used_counts_with_what_the_kernel_says);
    tcase_add_test(cases, an_honest_worker_is_believed);
    tcase_add_test(cases, hooks_cost_no_more_than_the_process_used);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_FORK);
}
