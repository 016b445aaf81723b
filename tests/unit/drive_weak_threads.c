/*
 * The scenarios of thread_scenarios.h with the ordering taken away that they rely on: what is released is
 * stored relaxed, and the budget word is changed without compare-and-swap. Run by test_threads.c under
 * ThreadSanitizer, which has to report each of them:
 *
 *     drive_weak_threads lane|budget|rates|windows
 *
 * windows.c and names.c are compiled anew here for the same reason.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define memory_order_release memory_order_relaxed
#define memory_order_acq_rel memory_order_relaxed

static __attribute__((noinline)) uint64_t plain_load(const uint64_t *word)
{
    return *word;
}

static __attribute__((noinline)) bool plain_exchange(uint64_t *word, uint64_t *expected, uint64_t desired)
{
    if (*word != *expected) {
        *expected = *word;
        return false;
    }
    *word = desired;
    return true;
}

#pragma push_macro("atomic_load_explicit")
#pragma push_macro("atomic_compare_exchange_weak_explicit")
#undef atomic_load_explicit
#undef atomic_compare_exchange_weak_explicit
#define atomic_load_explicit(word, order) plain_load((const uint64_t *)(uintptr_t)(word))
#define atomic_compare_exchange_weak_explicit(word, expected, desired, success, failure)                     \
    plain_exchange((uint64_t *)(uintptr_t)(word), expected, desired)
#include "shm/budget.h"
#pragma pop_macro("atomic_load_explicit")
#pragma pop_macro("atomic_compare_exchange_weak_explicit")

#include "aggregator/names.c"
#include "aggregator/windows.c"
#include "tests/unit/thread_scenarios.h"

int main(int argc, char **argv)
{
    rcu_init();
    rcu_register_thread();
    int status = 2;
    for (int i = 0; i < SCENARIOS; i++)
        if (argc == 2 && strcmp(argv[1], scenarios[i].name) == 0)
            status = scenarios[i].run() == 0 ? 0 : 1;
    rcu_unregister_thread();
    return status;
}
