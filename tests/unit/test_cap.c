/*
 * The hard cap: processes race for the tokens of a cycle, are killed in the middle of it, and are late; no
 * cycle ever gives out more than its cap, and each that is asked for enough gives out all of it.
 *
 * Cycles are not of time but of work, so that there are many: who is denied begins the next one.
 */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shm/budget.h"
#include "tests/unit/suite.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

enum {
    PROCESSES = 16,
    CAP = 7,
    CYCLES = 5000,                /* at least */
    KILLS = SANITIZED ? 50 : 300, /* at least; a fork is slow there */
    CYCLES_MOST = 1 << 20,
};

enum variant {
    SOUND,
    NO_COMPARE_AND_SWAP, /* two may take the same token */
    CYCLE_MOVES_BACK,    /* a late one begins its old cycle anew */
};

static struct shared {
    struct budget_page page;
    _Atomic uint32_t cycle;
    _Atomic bool stop;
    _Atomic uint32_t asking[PROCESSES]; /* the cycle of which it is taking a token just now, + 1 */
    struct {
        _Atomic uint16_t given;
        _Atomic uint8_t lost, asked_enough;
    } in[CYCLES_MOST];
} * shared;

static bool take_broken(enum variant variant, uint32_t cycle)
{
    _Atomic uint64_t *page = &shared->page.word;
    uint64_t word = atomic_load(page), next;
    do {
        uint32_t used = budget_cycle_of(word) == cycle ? budget_used_of(word) : 0;
        if (used >= CAP)
            return false;
        next = (uint64_t)cycle << 32 | (used + 1);
        if (variant == NO_COMPARE_AND_SWAP) {
            atomic_store(page, next);
            return true;
        }
    } while (!atomic_compare_exchange_weak(page, &word, next));
    return true;
}

static void ask(unsigned process, enum variant variant, unsigned *seed)
{
    uint32_t cycle = atomic_load(&shared->cycle);
    atomic_store(&shared->asking[process], cycle + 1);
    if (rand_r(seed) % 64 == 0)
        sched_yield(); /* late */
    if (variant == SOUND ? budget_take(&shared->page, cycle, CAP) : take_broken(variant, cycle)) {
        atomic_fetch_add(&shared->in[cycle].given, 1);
    } else if (budget_cycle_of(budget_look(&shared->page)) == cycle) {
        atomic_store(&shared->in[cycle].asked_enough, 1);
        for (int spin = rand_r(seed) % 4096; spin > 0; spin--)
            __asm__ volatile("");
        if (cycle + 2 < CYCLES_MOST)
            atomic_compare_exchange_strong(&shared->cycle, &cycle, cycle + 1);
    }
    atomic_store(&shared->asking[process], 0);
}

static pid_t start(unsigned process, enum variant variant, unsigned seed)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (!atomic_load(&shared->stop))
        ask(process, variant, &seed);
    _exit(0);
}

static void end(pid_t pid, unsigned process)
{
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    uint32_t asking = atomic_load(&shared->asking[process]);
    if (asking != 0)
        shared->in[asking - 1].lost++; /* perhaps a token that nobody noted */
    atomic_store(&shared->asking[process], 0);
}

/* Returns how many cycles gave out more than the cap. */
static unsigned race(enum variant variant)
{
    pid_t pid[PROCESSES];
    unsigned kills = 0, exceeded = 0, wanting = 0, asked_enough = 0, seed = 7;
    time_t deadline = time(NULL) + 60;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(shared, MAP_FAILED);
    for (unsigned i = 0; i < PROCESSES; i++)
        pid[i] = start(i, variant, i + 1);
    while ((kills < KILLS || atomic_load(&shared->cycle) < CYCLES) && time(NULL) < deadline) {
        unsigned victim = (unsigned)rand_r(&seed) % PROCESSES;
        nanosleep(&(struct timespec){.tv_nsec = rand_r(&seed) % 2000000}, NULL);
        kill(pid[victim], SIGKILL);
        end(pid[victim], victim);
        pid[victim] = start(victim, variant, PROCESSES + ++kills);
    }
    atomic_store(&shared->stop, true);
    for (unsigned i = 0; i < PROCESSES; i++)
        end(pid[i], i);
    uint32_t cycles = atomic_load(&shared->cycle);
    ck_assert_uint_ge(cycles, CYCLES);
    ck_assert_uint_ge(kills, KILLS);
    for (uint32_t c = 0; c < cycles; c++) {
        unsigned given = atomic_load(&shared->in[c].given), lost = atomic_load(&shared->in[c].lost);
        exceeded += given > CAP;
        asked_enough += atomic_load(&shared->in[c].asked_enough);
        wanting += atomic_load(&shared->in[c].asked_enough) && given + lost < CAP;
    }
    if (variant == SOUND) {
        ck_assert_uint_eq(wanting, 0);
        ck_assert_uint_eq(asked_enough, cycles);
        ck_assert_uint_eq(atomic_load(&shared->page.peak), CAP);
    }
    munmap(shared, sizeof *shared);
    return exceeded;
}

START_TEST(no_cycle_exceeds_its_cap_and_each_that_is_asked_for_it_gives_it_all)
{
    ck_assert_uint_eq(race(SOUND), 0);
}
END_TEST

START_TEST(a_budget_without_compare_and_swap_is_caught)
{
    ck_assert_uint_gt(race(NO_COMPARE_AND_SWAP), 0);
}
END_TEST

START_TEST(a_cycle_that_moves_back_is_caught)
{
    ck_assert_uint_gt(race(CYCLE_MOVES_BACK), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cap");
    TCase *cases = tcase_create("promises");
    tcase_set_timeout(cases, 90);
    tcase_add_test(cases, no_cycle_exceeds_its_cap_and_each_that_is_asked_for_it_gives_it_all);
    tcase_add_test(cases, a_budget_without_compare_and_swap_is_caught);
    tcase_add_test(cases, a_cycle_that_moves_back_is_caught);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_FORK);
}
