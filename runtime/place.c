/* The sampler's CPU: see place.h. */
#include "runtime/place.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/rseq.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/cpython/copy.h"
#include "runtime/tick_path.h"
#include "shm/clock.h"

enum {
    NOWHERE = -1,
    LOOK_EVERY = 8, /* samples of running threads */
    LOOKS = 16,     /* that are judged together, */
    MISSES_MOST = 8,
    TICKS = 64, /* as are so many ticks */
    LATE_MOST = 4,
    STACKS = 64, /* and so many stacks */
    TORN_MOST = 3,
    CHILD_STACK = 32 << 10,
};
#define LATE_NS UINT64_C(1000000)
#define REST_NS (30 * NS_PER_SECOND)
#define TORN_NS (60 * NS_PER_SECOND) /* after stacks were torn it stays where they are not */
#define LONG_INTERVAL_NS                                                                                     \
    UINT64_C(4000000)             /* an idle CPU falls asleep in it, and its caches become another's */
#define SLICE_NS UINT64_C(100000) /* the shortest that the kernel takes */

/* As the kernel has it (sched_setattr(2), first version); glibc declares it from 2.41 on. */
struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};

static struct {
    bool possible;
    int cpu;                /* where we put ourselves */
    int seen;               /* where else the thread was at the last look */
    cpu_set_t allowed;      /* as found when it was not our own doing */
    uint32_t samples;       /* since the last look, */
    uint32_t looks, misses; /* of late */
    uint32_t ticks, late;   /* where we put ourselves, of late */
    uint32_t stacks, torn;  /* where the kernel put us, of late */
    uint64_t torn_until_ns; /* until then it counts as if stacks were torn */
    uint64_t rest_until_ns; /* it is left to the kernel until then */
} place;

/* ---- what is possible ---------------------------------------------------------------------------------- */

/* Ask for what we shall ask for, changing nothing but the slice. */
static int ask(void)
{
    cpu_set_t mask;
    struct attributes attributes = {.size = sizeof attributes};
    if (sched_getaffinity(0, sizeof mask, &mask) != 0 || sched_setaffinity(0, sizeof mask, &mask) != 0)
        return -1;
    /* Where the kernel knows no slices (before 6.12), or another policy was chosen, ours is as it is. */
    if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) == 0 &&
        attributes.policy == SCHED_OTHER) {
        attributes.size = sizeof attributes;
        attributes.runtime_ns = SLICE_NS;
        attributes.flags |= 1; /* SCHED_FLAG_RESET_ON_FORK: not for the aggregator */
        syscall(SYS_sched_setattr, 0, &attributes, 0);
    }
    return 0;
}

static int asking_child(void *unused)
{
    (void)unused;
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none); /* its memory is the application's */
    _exit(ask() == 0 ? 0 : 1);
}

static bool child_survives_asking(void)
{
    struct utsname kernel;
    char *end;
    /* Before 5.16 a process that dumps core takes with it all that share its memory. */
    if (uname(&kernel) != 0)
        return false;
    long major = strtol(kernel.release, &end, 10), minor = *end == '.' ? strtol(end + 1, NULL, 10) : 0;
    if (major < 5 || (major == 5 && minor < 16))
        return false;
    char *stack =
        mmap(NULL, CHILD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED)
        return false;
    int status = -1, pid = clone(asking_child, stack + CHILD_STACK, CLONE_VM | CLONE_VFORK, NULL);
    if (pid >= 0)
        while (waitpid(pid, &status, __WCLONE) < 0 && errno == EINTR) {
        }
    munmap(stack, CHILD_STACK);
    return pid >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Is no seccomp filter in force for this thread? */
static bool is_unfiltered(void)
{
    char text[4096];
    int fd = open("/proc/thread-self/status", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    if (fd >= 0)
        close(fd);
    text[got > 0 ? got : 0] = 0;
    return strstr(text, "\nSeccomp:\t0\n") != NULL;
}

void place_begin(void)
{
    place.cpu = place.seen = NOWHERE;
    place.samples = place.looks = place.misses = place.ticks = place.late = 0;
    place.stacks = place.torn = 0;
    place.rest_until_ns = place.torn_until_ns = 0;
    place.possible = (is_unfiltered() || child_survives_asking()) && ask() == 0;
}

/* ---- where --------------------------------------------------------------------------------------------- */

static const ptrdiff_t *area_offset; /* from the thread pointer; NULL: there is no area */

void place_open(void)
{
    const unsigned *bytes = dlsym(RTLD_DEFAULT, "__rseq_size"); /* 0: not registered */
    area_offset = bytes != NULL && *bytes != 0 ? dlsym(RTLD_DEFAULT, "__rseq_offset") : NULL;
    dlerror(); /* what we did not find is nobody's error */
}

uintptr_t place_here(void)
{
    if (area_offset == NULL)
        return 0;
    return (uintptr_t)__builtin_thread_pointer() + (uintptr_t)*area_offset + offsetof(struct rseq, cpu_id);
}

static bool is_only(const cpu_set_t *mask, int cpu)
{
    return CPU_COUNT(mask) == 1 && CPU_ISSET(cpu, mask);
}

/* Take in what others decided since. False if that cannot be told. */
static bool find_allowed(void)
{
    cpu_set_t now;
    if (sched_getaffinity(0, sizeof now, &now) != 0)
        return place.possible = false;
    if (place.cpu == NOWHERE || !is_only(&now, place.cpu)) {
        place.allowed = now;
        place.cpu = NOWHERE;
    }
    return true;
}

static void move(int cpu)
{
    cpu_set_t only;
    if (!find_allowed() || !CPU_ISSET(cpu, &place.allowed))
        return;
    CPU_ZERO(&only);
    CPU_SET(cpu, &only);
    if (sched_setaffinity(0, sizeof only, &only) != 0)
        return; /* it went offline */
    place.cpu = cpu;
    place.ticks = place.late = 0;
}

void place_leave(void)
{
    if (place.cpu != NOWHERE && find_allowed() && place.cpu != NOWHERE)
        sched_setaffinity(0, sizeof place.allowed, &place.allowed);
    place.cpu = place.seen = NOWHERE;
}

static void rest(uint64_t now_ns)
{
    place_leave();
    place.looks = place.misses = 0;
    place.rest_until_ns = now_ns + REST_NS;
}

/* Look where the thread is that `word` tells of. */
static void look(struct copy *copy, uintptr_t word, uint64_t now_ns)
{
    int32_t cpu;
    /* The thread may have ended and its stack be gone. */
    if (!copy_piece(copy, word, &cpu, sizeof cpu) || cpu < 0 || cpu >= CPU_SETSIZE)
        return;
    bool miss = cpu != place.cpu;
    if (miss && cpu == place.seen)
        move(cpu);
    place.seen = miss ? cpu : NOWHERE;
    place.misses += miss;
    if (++place.looks < LOOKS)
        return;
    if (place.misses > MISSES_MOST)
        rest(now_ns);
    place.looks = place.misses = 0;
}

TICK_PATH void place_follow(struct copy *copy, uintptr_t word, uint64_t interval_ns, uint64_t now_ns)
{
    if (word == 0 || place.samples++ % LOOK_EVERY != 0 || !place.possible || now_ns < place.rest_until_ns)
        return;
    if (interval_ns >= LONG_INTERVAL_NS || now_ns < place.torn_until_ns)
        look(copy, word, now_ns);
    else
        place_leave();
}

TICK_PATH void place_note_stack(bool torn, uint64_t now_ns)
{
    if (place.cpu != NOWHERE)
        return;
    place.torn += torn;
    if (++place.stacks < STACKS)
        return;
    if (place.torn > TORN_MOST)
        place.torn_until_ns = now_ns + TORN_NS;
    place.stacks = place.torn = 0;
}

TICK_PATH void place_note_tick(uint64_t late_ns, uint64_t now_ns)
{
    if (place.cpu == NOWHERE)
        return;
    place.late += late_ns > LATE_NS;
    if (++place.ticks < TICKS)
        return;
    if (place.late > LATE_MOST)
        rest(now_ns);
    place.ticks = place.late = 0;
}
