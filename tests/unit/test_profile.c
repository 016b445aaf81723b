/* What profiles promise: weights, merging, quantiles, windows. Promises read as test names. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/profile.h"
#include "aggregator/windows.h"
#include "shm/counters.h"
#include "tests/unit/suite.h"

#define MS UINT64_C(1000000)

static void count(struct profile *profile, uint32_t type, uint64_t n, uint64_t latency_ns)
{
    struct type_totals *totals = profile_type(profile, type);
    totals->count += n;
    totals->latency_sum_ns += n * latency_ns;
    if (totals->latency_max_ns < latency_ns)
        totals->latency_max_ns = latency_ns;
    ck_assert_int_eq(histogram_add(&totals->histogram, histogram_bucket(latency_ns), n), 0);
}

/* One sample as the only one of its action. */
static void sample(struct profile *profile, uint32_t type, uint32_t stack, enum sample_state state,
                   double weight, double wall_ns, double cpu_ns)
{
    struct profile_action action = {.weight = {weight}, .together = 1, .all_ns = {wall_ns}};
    struct profile_sample one = {
        .stack = stack, .state = state, .wall_ns = wall_ns, .cpu_ns = cpu_ns, .line_ns = {wall_ns}};
    profile_add_sample(profile, type, &action, &one);
}

START_TEST(a_quantile_is_within_a_sixteenth_of_the_truth)
{
    struct histogram histogram = {0};
    for (uint64_t ms = 1; ms <= 1000; ms++)
        ck_assert_int_eq(histogram_add(&histogram, histogram_bucket(ms * MS), 1), 0);
    ck_assert_uint_eq(histogram_total(&histogram), 1000);
    const double q[] = {0.1, 0.5, 0.9, 0.99};
    for (int i = 0; i < 4; i++) {
        double got = histogram_quantile(&histogram, q[i], 1000 * MS), truth = q[i] * 1000 * MS;
        ck_assert_msg(fabs(got - truth) <= truth / 16, "q %.2f: %.0f instead of %.0f", q[i], got, truth);
    }
    histogram_close(&histogram);
}
END_TEST

START_TEST(no_quantile_exceeds_the_maximum_and_an_empty_histogram_has_none)
{
    struct histogram histogram = {0};
    ck_assert_double_eq(histogram_quantile(&histogram, 0.5, 0), 0);
    histogram_add(&histogram, histogram_bucket(10 * MS), 5);
    ck_assert_double_le(histogram_quantile(&histogram, 1.0, 10 * MS), 10.0 * MS);
    histogram_close(&histogram);
}
END_TEST

START_TEST(sampled_time_is_rescaled_to_the_exact_count)
{
    struct profile profile = {0};
    count(&profile, 3, 100, 10 * MS);
    struct type_totals *totals = profile_type(&profile, 3);
    totals->ended = 2;
    totals->weight = 80; /* two actions at p = 1/40 */
    sample(&profile, 3, 7, STATE_CPU, 40, 10.0 * MS, 5.0 * MS);
    profile_rescale(&profile);
    ck_assert_uint_eq(profile.cells, 1);
    ck_assert_double_eq_tol(profile.cell[0].wall[STATE_CPU], 50.0 * 10 * MS, 1);
    ck_assert_double_eq_tol(profile.cell[0].cpu, 50.0 * 5 * MS, 1);
    ck_assert_double_eq_tol(profile.type[0].weight, 100, 1e-9);
    ck_assert_uint_eq(profile.cell[0].samples, 1);
    profile_close(&profile);
}
END_TEST

START_TEST(merging_adds_up_whatever_the_order)
{
    struct profile a = {0}, b = {0}, ab = {0}, ba = {0};
    count(&a, 1, 10, 5 * MS);
    count(&b, 1, 20, 50 * MS);
    count(&b, 2, 1, MS);
    for (uint32_t stack = 1; stack < 500; stack++) {
        sample(&a, 1, stack, STATE_CPU, 1, stack, 0);
        sample(&b, 1, stack * 2, STATE_BLOCKED, 1, stack, 0);
    }
    ck_assert_int_eq(profile_merge(&ab, &a) | profile_merge(&ab, &b), 0);
    ck_assert_int_eq(profile_merge(&ba, &b) | profile_merge(&ba, &a), 0);
    ck_assert_uint_eq(ab.cells, ba.cells);
    const struct type_totals *x = profile_find_type(&ab, 1), *y = profile_find_type(&ba, 1);
    ck_assert_uint_eq(x->count, 30);
    ck_assert_uint_eq(y->count, 30);
    ck_assert_uint_eq(x->latency_max_ns, 50 * MS);
    ck_assert_uint_eq(histogram_total(&x->histogram), 30);
    double sum = 0;
    for (uint32_t i = 0; i < ab.cells; i++)
        for (int state = 0; state < SAMPLE_STATES; state++)
            sum += ab.cell[i].wall[state];
    ck_assert_double_eq_tol(sum, 2 * 499.0 * 500 / 2, 1e-6);
    profile_close(&a);
    profile_close(&b);
    profile_close(&ab);
    profile_close(&ba);
}
END_TEST

START_TEST(past_the_bound_stacks_fold_into_one_and_no_time_is_lost)
{
    struct profile profile = {0};
    uint32_t n = PROFILE_CELLS_MOST + 1000;
    for (uint32_t stack = 1; stack <= n; stack++)
        sample(&profile, 1, stack, STATE_CPU, 1, 1, 0);
    ck_assert_uint_eq(profile.cells, PROFILE_CELLS_MOST + 1);
    ck_assert_uint_eq(profile.folded, 1000);
    double sum = 0;
    for (uint32_t i = 0; i < profile.cells; i++)
        sum += profile.cell[i].wall[STATE_CPU];
    ck_assert_double_eq(sum, n);
    profile_close(&profile);
}
END_TEST

static void forget(uint64_t id, void *context)
{
    (void)id;
    ++*(unsigned *)context;
}

START_TEST(at_most_64_windows_are_kept_and_all_of_the_past_with_them)
{
    struct windows windows = {0};
    unsigned merged = 0;
    for (uint64_t i = 0; i < 500; i++) {
        struct window *window = window_new(i * 10000 * MS, i * 10000 * MS);
        window->end_ns = window->end_real_ns = (i + 1) * 10000 * MS;
        window->sums.samples = 1;
        count(&window->profile, 1, 1, MS);
        ck_assert_int_eq(windows_close_one(&windows, window, forget, &merged), 0);
    }
    ck_assert_uint_le(windows.count, WINDOWS_MOST);
    uint64_t samples = 0, actions = 0, end = 0;
    for (uint32_t i = 0; i < windows.count; i++) {
        ck_assert_uint_eq(windows.closed[i]->start_ns, end); /* no gap, no overlap */
        end = windows.closed[i]->end_ns;
        samples += windows.closed[i]->sums.samples;
        actions += profile_find_type(&windows.closed[i]->profile, 1)->count;
    }
    ck_assert_uint_eq(end, 500 * 10000 * MS);
    ck_assert_uint_eq(samples, 500);
    ck_assert_uint_eq(actions, 500);
    /* The newest 5 minutes are still in pieces of 10 s. */
    for (uint32_t i = windows.count - 30; i < windows.count; i++)
        ck_assert_uint_eq(windows.closed[i]->end_ns - windows.closed[i]->start_ns, 10000 * MS);
    windows_free(&windows);
}
END_TEST

START_TEST(of_the_past_the_two_neighbours_become_one_that_together_are_shortest)
{
    enum { SHORT = 9 }; /* and the one after it */
    struct windows windows = {0};
    uint64_t now = 0;
    unsigned merged = 0;
    for (int i = 0; i <= WINDOWS_MOST; i++) {
        struct window *window = window_new(now, now);
        now += (i == SHORT || i == SHORT + 1 ? 100 : 1000) * MS;
        window->end_ns = window->end_real_ns = now;
        ck_assert_int_eq(windows_close_one(&windows, window, forget, &merged), 0);
    }
    ck_assert_uint_eq(merged, 2);
    ck_assert_uint_eq(windows.count, WINDOWS_MOST);
    for (uint32_t i = 0; i < windows.count; i++)
        ck_assert_uint_eq(windows.closed[i]->end_ns - windows.closed[i]->start_ns,
                          (i == SHORT ? 200 : 1000) * MS);
    windows_free(&windows);
}
END_TEST

START_TEST(a_reader_keeps_what_it_took_while_the_writer_goes_on)
{
    struct windows windows = {0};
    unsigned merged = 0;
    struct window *window = window_new(0, 0);
    count(&window->profile, 1, 7, MS);
    ck_assert_int_eq(windows_close_one(&windows, window, forget, &merged), 0);
    ck_assert_int_eq(windows_publish(&windows, NULL), 0);
    struct window_list *taken = windows_acquire(&windows);
    for (int i = 0; i < 200; i++) {
        window = window_new(0, 0);
        count(&window->profile, 1, 1, MS);
        ck_assert_int_eq(windows_close_one(&windows, window, forget, &merged), 0);
        ck_assert_int_eq(windows_publish(&windows, window), 0);
    }
    ck_assert_uint_eq(taken->count, 1);
    ck_assert_uint_eq(profile_find_type(&taken->window[0]->profile, 1)->count, 7);
    windows_release(taken);
    windows_free(&windows);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("profile");
    TCase *cases = tcase_create("promises");
    tcase_add_test(cases, a_quantile_is_within_a_sixteenth_of_the_truth);
    tcase_add_test(cases, no_quantile_exceeds_the_maximum_and_an_empty_histogram_has_none);
    tcase_add_test(cases, sampled_time_is_rescaled_to_the_exact_count);
    tcase_add_test(cases, merging_adds_up_whatever_the_order);
    tcase_add_test(cases, past_the_bound_stacks_fold_into_one_and_no_time_is_lost);
    tcase_add_test(cases, at_most_64_windows_are_kept_and_all_of_the_past_with_them);
    tcase_add_test(cases, of_the_past_the_two_neighbours_become_one_that_together_are_shortest);
    tcase_add_test(cases, a_reader_keeps_what_it_took_while_the_writer_goes_on);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_NOFORK);
}
