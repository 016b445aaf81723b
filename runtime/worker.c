/* This process's place in the pool: see worker.h. */
#include "runtime/worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "runtime/action.h"
#include "runtime/cpython/reader.h"
#include "runtime/guest.h"
#include "runtime/first_thread.h"
#include "runtime/limits.h"
#include "runtime/notice.h"
#include "runtime/place.h"
#include "runtime/sampler.h"
#include "shm/fault.h"
#include "shm/testpoint.h"

#define RETRY_ATTACH_NS (30 * NS_PER_SECOND)
#define RENEW_NS (10 * NS_PER_SECOND)       /* between two renewals of a segment */
#define RENEW_PATIENCE_NS NS_PER_SECOND     /* how long actions are kept from being profiled for one */
#define RENEW_RETRY_NS (60 * NS_PER_SECOND) /* until the next attempt after that was in vain */

struct worker worker;
static uint32_t always_one = 1;
uint32_t *worker_sentinel = &always_one;

static uint64_t rotate_left(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

static void seed(void)
{
    worker.seeded = true;
    if (getrandom(worker.random, sizeof worker.random, GRND_NONBLOCK) == (ssize_t)sizeof worker.random)
        return;
    worker.random[0] = clock_realtime_ns();
    worker.random[1] = (uint64_t)getpid();
    worker.random[2] = clock_monotonic_ns();
    worker.random[3] = 1;
}

/* xoshiro256** by Blackman and Vigna (public domain, prng.di.unimi.it): not for secrets. */
uint64_t worker_random(void)
{
    if (*worker_sentinel == 0)
        worker_after_fork();
    if (!worker.seeded) /* also where nothing attaches: task uuids are made all the same */
        seed();
    uint64_t *s = worker.random;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

void worker_open(void)
{
    if (worker_sentinel != &always_one)
        return;
    notice_open();
    slots_open();
    place_open();
    uint32_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page != MAP_FAILED && madvise(page, 4096, MADV_WIPEONFORK) == 0) {
        *page = 1;
        worker_sentinel = page;
    } else if (page != MAP_FAILED) {
        munmap(page, 4096); /* an old kernel: pthread_atfork has to do */
    }
    pthread_atfork(NULL, NULL, worker_after_fork);
    first_thread_open();
}

int worker_enable(const struct worker_settings *settings)
{
    static bool checked;
    if (!checked) {
        int rc = reader_check();
        if (rc == 0)
            rc = codes_watch();
        if (rc != 0) {
            worker.check_failed = true;
            snprintf(worker.reason, sizeof worker.reason, "%s", fault_text());
            return rc;
        }
        checked = true;
    }
    if (*worker_sentinel == 0)
        worker_after_fork();
    if (worker.attached) {
        /* The sampler reads the settings: once it runs they stay as they are. */
        if (strcmp(worker.settings.pool, settings->pool) != 0)
            return fault(EBUSY, "this process has already attached to %s; configure before the first action",
                         worker.settings.source);
    } else {
        worker.settings = *settings;
        worker.retry_ns = 0;
    }
    worker.enabled = true;
    sampler_watch(settings->process);
    return 0;
}

void worker_disable(void)
{
    worker.enabled = false;
}

/* Servers enable us as root and give their workers to another user: theirs is another pool. */
static int follow_user(struct worker_settings *settings)
{
    if (settings->uid == geteuid())
        return 0;
    int rc = settings->directory_is_default ? directory_default(settings->directory) : 0;
    if (rc == 0)
        rc = directory_pool(settings->pool, settings->directory, geteuid(), settings->source);
    if (rc == 0)
        settings->uid = geteuid();
    return rc;
}

/* In a directory of another user its service makes the folder. */
static int make_pool(void)
{
    int rc = directory_make_pool(worker.settings.directory, worker.settings.pool);
    if (rc != -EACCES)
        return rc;
    char words[sizeof worker.reason];
    snprintf(words, sizeof words, "%s", fault_text());
    int asked = guest_ask_for_pool(worker.settings.directory, worker.settings.pool);
    if (asked == 0)
        return directory_make_pool(worker.settings.directory, worker.settings.pool);
    if (asked != -EACCES) /* where nobody listens, that it cannot be made is what matters */
        fault(0, "%s", words);
    return -EACCES;
}

static int make_segment(struct segment *segment)
{
    char rings[DIRECTORY_PATH_MAX];
    int rc = make_pool();
    if (rc == 0)
        rc = directory_join(rings, worker.settings.pool, "rings");
    if (rc != 0)
        return rc;
    struct segment_sizes sizes = segment_default_sizes;
    if (worker.settings.process) /* no action may ever come whose begin could renew it */
        sizes.sampler_definitions *= 4;
    rc = segment_create(segment, rings, worker.settings.source, worker.settings.python_hexversion, &sizes);
    if (rc == -ENOSPC || rc == -EFBIG)
        rc = segment_create(segment, rings, worker.settings.source, worker.settings.python_hexversion,
                            &segment_small_sizes);
    return rc;
}

bool worker_attach(uint64_t now_ns)
{
    if (now_ns < worker.retry_ns)
        return false;
    worker.retry_ns = now_ns + RETRY_ATTACH_NS;
    int rc = follow_user(&worker.settings);
    if (rc == 0)
        rc = make_segment(&worker.segment);
    if (rc == -EACCES) /* perhaps the service whose directory it is, is just being started again */
        worker.retry_ns = now_ns + NS_PER_SECOND;
    if (rc != 0) {
        snprintf(worker.reason, sizeof worker.reason, "%s", fault_text());
        notice_once(NOTICE_NO_SEGMENT, "profiling is off in this process, the application runs on: %s",
                    worker.reason);
        return false;
    }
    memset(&worker.meter, 0, sizeof worker.meter);
    actions_begin_segment(&worker.segment);
    worker.attached = true;
    worker.attachment++;
    worker.attached_ns = now_ns;
    worker.reason[0] = '\0';
    limits_use(worker.settings.pool);
    rc = sampler_start();
    if (rc != 0) {
        snprintf(worker.reason, sizeof worker.reason, "%s", fault_text());
        notice_once(NOTICE_NO_SAMPLER, "actions are counted, but no stack is sampled: %s", worker.reason);
        alive_renounce(&worker.segment.worker->alive);
    }
    meter_exact(&worker.meter, clock_monotonic_ns() - now_ns);
    return true;
}

void worker_after_fork(void)
{
    *worker_sentinel = 1;
    worker.generation++;
    worker.attached = false;
    worker.retry_ns = 0;
    worker.renew_ns = worker.renew_asked_ns = 0;
    worker.seeded = false;
    worker.reason[0] = '\0';
    memset(&worker.segment, 0, sizeof worker.segment); /* the mapping was not inherited */
    atomic_store_explicit(&worker.want_fresh_segment, false, memory_order_relaxed);
    sampler_after_fork();
    actions_after_fork();
    first_thread_mark();
}

void worker_close(void)
{
    if (*worker_sentinel == 0)
        worker_after_fork();
    worker.enabled = false;
    if (!worker.attached)
        return;
    sampler_stop();
    notice_print_deferred(); /* no action may have come to print it */
    atomic_store_explicit(&worker.segment.worker->state, SEGMENT_CLOSED, memory_order_release);
    TESTPOINT("segment-closed"); /* The aggregator drains it once more, and removes it. */
}

bool worker_renew_segment(uint64_t now_ns)
{
    if (now_ns < worker.renew_ns)
        return true;
    if (!sampler_hold()) {
        if (worker.renew_asked_ns == 0)
            worker.renew_asked_ns = now_ns;
        if (now_ns - worker.renew_asked_ns < RENEW_PATIENCE_NS)
            return false;
        worker.renew_asked_ns = 0;
        worker.renew_ns = now_ns + RENEW_RETRY_NS;
        return true;
    }
    worker.renew_asked_ns = 0;
    worker.renew_ns = now_ns + RENEW_NS;
    struct segment fresh;
    if (make_segment(&fresh) == 0) {
        worker_publish_meter();
        struct segment old = worker.segment;
        worker.segment = fresh;
        memset(&worker.meter, 0, sizeof worker.meter);
        actions_begin_segment(&worker.segment);
        TESTPOINT("segment-renewed"); /* The aggregator sees two segments of one process, both alive. */
        atomic_store_explicit(&old.worker->state, SEGMENT_CLOSED, memory_order_release);
        TESTPOINT("segment-closed"); /* The aggregator drains the old one to its end, and removes it. */
        sampler_begin_segment(&old);
        atomic_store_explicit(&worker.want_fresh_segment, false, memory_order_relaxed);
    }
    sampler_release();
    return true;
}
