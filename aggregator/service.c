/* The loop over a directory's pools: see service.h. */
#include "aggregator/service.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <urcu.h>

#include "aggregator/answers.h"
#include "aggregator/checkpoint.h"
#include "aggregator/control.h"
#include "aggregator/destination/destination.h"
#include "aggregator/guard.h"
#include "aggregator/log.h"
#include "aggregator/store.h"
#include "aggregator/succession.h"
#include "shm/clock.h"
#include "shm/fault.h"
#include "shm/testpoint.h"

enum {
    LAST_ROUNDS = 50,
    LOCK_TRIES = 15,
    LOCK_PAUSE_US = 20000,
    HANDOVER_TRIES = 30, /* of LOCK_TRIES each: some 9 s for a private one to end */
};
#define TOLD_LATE_S 0.1        /* samplers tell of their CPU ten times a second */
#define CHECKPOINT_SHARE 0.002 /* of a core, for writing checkpoints */
#define FILL_CHECKPOINT 0.5    /* lanes fuller than this need a checkpoint, which frees them */

/* ---- pools ------------------------------------------------------------------------------------------- */

static bool is_open(const struct service *service, const char *path)
{
    for (unsigned i = 0; i < service->pools; i++)
        if (strcmp(service->pool[i]->path, path) == 0)
            return true;
    return false;
}

/* Fails where the folder is not there yet, or where there are too many watches: then the look round finds it.
 */
static bool watch(const struct service *service, const char *path, uint32_t events)
{
    return inotify_add_watch(service->inotify, path, events | IN_ONLYDIR) >= 0;
}

static void watch_pool(const struct service *service, const struct pool *pool)
{
    bool both = watch(service, pool->rings, IN_MOVED_TO);
    both = watch(service, pool->folder, IN_MOVED_TO | IN_DELETE) && both;
    /* The pool's own folder, where checkpoints come and go, only until both are there. */
    watch(service, pool->path, both ? IN_DELETE_SELF : IN_CREATE | IN_MOVED_TO);
    char path[DIRECTORY_PATH_MAX];
    if (directory_join(path, pool->path, "budget") == 0)
        inotify_add_watch(service->inotify, path, IN_ATTRIB | IN_DONT_FOLLOW);
}

/* It is tried again each second, but told of once. */
static bool is_news(struct service *service, const char *path)
{
    uint32_t hash = store_crc(0, path, strlen(path));
    for (unsigned i = 0; i < service->unserved_count; i++)
        if (service->unserved[i] == hash)
            return false;
    if (service->unserved_count == SERVICE_POOLS)
        return false;
    service->unserved[service->unserved_count++] = hash;
    return true;
}

static void find_pools(struct service *service)
{
    DIR *directory = opendir(service->directory);
    if (directory == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        char path[DIRECTORY_PATH_MAX], source[DIRECTORY_SOURCE_MAX + 1];
        uid_t uid;
        if (directory_parse_pool(entry->d_name, &uid, source) != 0 ||
            directory_join(path, service->directory, entry->d_name) != 0 || is_open(service, path))
            continue;
        struct pool *pool;
        int rc = service->pools == SERVICE_POOLS
                     ? fault(ENOSPC, "there are %d others", SERVICE_POOLS)
                     : pool_open(&pool, service->directory, entry->d_name, &service->config);
        if (rc != 0) {
            if (is_news(service, path))
                log_line("pool %s cannot be served: %s", path, fault_text());
            continue;
        }
        service->pool[service->pools] = pool;
        atomic_store_explicit(&service->pools, service->pools + 1, memory_order_release);
    }
    closedir(directory);
}

static void scan(struct service *service, bool force)
{
    find_pools(service);
    for (unsigned i = 0; i < service->pools; i++) {
        struct pool *pool = service->pool[i];
        watch_pool(service, pool);
        pool_scan(pool, force);
    }
}

/* ---- rounds and cycles ------------------------------------------------------------------------------- */

static uint64_t round_of_all(struct service *service)
{
    uint64_t moved = 0;
    for (unsigned i = 0; i < service->pools; i++)
        moved += pool_round(service->pool[i]);
    return moved;
}

static unsigned attached(const struct service *service)
{
    unsigned n = 0;
    for (unsigned i = 0; i < service->pools; i++)
        n += service->pool[i]->attached;
    return n;
}

/* A pool's share of what we used ourselves: by attached workers. */
static uint64_t share_of(const struct service *service, const struct pool *pool, uint64_t used)
{
    unsigned workers = attached(service);
    double share = workers != 0 ? (double)pool->attached / workers : 1.0 / service->pools;
    return (uint64_t)((double)used * share);
}

static void account(struct service *service, uint64_t now)
{
    uint64_t cpu = clock_read_ns(CLOCK_PROCESS_CPUTIME_ID), used = cpu - service->cpu_ns;
    service->cpu_ns = cpu;
    for (unsigned i = 0; i < service->pools; i++)
        pool_account(service->pool[i], share_of(service, service->pool[i], used), now);
}

/* Some pool may have spent what a cycle may cost: only then is it worth reading every worker's clock. */
static void brake(struct service *service, uint64_t now)
{
    uint64_t used = clock_read_ns(CLOCK_PROCESS_CPUTIME_ID) - service->cpu_ns;
    double ahead_s = service->pace.ms / 1e3 + TOLD_LATE_S;
    bool accounted = false;
    for (unsigned i = 0; i < service->pools; i++) {
        struct pool *pool = service->pool[i];
        if (!accounted && !pool_would_brake(pool, share_of(service, pool, used), ahead_s, now))
            continue;
        if (!accounted)
            account(service, now);
        accounted = true;
        pool_brake(pool, ahead_s, now);
    }
}

static void checkpoint_if_due(struct service *service, uint64_t now)
{
    for (unsigned i = 0; i < service->pools; i++) {
        struct pool *pool = service->pool[i];
        uint64_t interval = (uint64_t)((double)pool->checkpoint_cost_ns / CHECKPOINT_SHARE);
        if (interval < POOL_CYCLE_NS)
            interval = POOL_CYCLE_NS;
        uint64_t passed = now - pool->checkpoint_at_ns;
        /* One that failed frees no lane, however full: it waits its turn. */
        bool urgent = pool->fill >= FILL_CHECKPOINT && !pool->checkpoint_failed;
        if (!pool->dirty || (passed < interval && !urgent))
            continue;
        pool->checkpoint_at_ns = now;
        checkpoint_write(pool);
    }
}

/* How long until the next round. */
static void set_pace(struct service *service, uint64_t moved, bool cycle)
{
    struct pace_facts facts = {.attached = attached(service), .moved = moved != 0, .cycle = cycle};
    for (unsigned i = 0; i < service->pools; i++) {
        const struct pool *pool = service->pool[i];
        double own = pace_own(&pool->budget_state, &pool->asked);
        double spent = pace_spent(&pool->budget_state, &pool->asked);
        if (pool->fill > facts.fill)
            facts.fill = pool->fill;
        if (own > facts.own)
            facts.own = own;
        if (spent > facts.spent)
            facts.spent = spent;
    }
    pace_next(&service->pace, &facts);
}

static void cycle_of_all(struct service *service, uint64_t now)
{
    account(service, now);
    for (unsigned i = 0; i < service->pools; i++) {
        pool_cycle(service->pool[i], now);
        pool_let_go(service->pool[i], now, service->options.linger_s);
    }
    service->cycle_at_ns += POOL_CYCLE_NS;
    if (service->cycle_at_ns < now)
        service->cycle_at_ns = now + POOL_CYCLE_NS;
}

void service_cut(struct service *service)
{
    /* Twice, a moment apart: an action whose end is read in the first round is closed in the second. */
    round_of_all(service);
    usleep(2000);
    round_of_all(service);
    uint64_t now = clock_monotonic_ns();
    account(service, now);
    for (unsigned i = 0; i < service->pools; i++)
        pool_publish(service->pool[i], now);
}

/* ---- calls from other threads ------------------------------------------------------------------------ */

static void serve_call(struct service *service)
{
    uint64_t woken;
    if (read(service->wake, &woken, sizeof woken) < 0 && errno != EAGAIN)
        log_line("eventfd: %s", strerror(errno));
    pthread_mutex_lock(&service->lock_call);
    if (service->calls_asked != service->calls_done) {
        service->call(service, service->call_context);
        service->calls_done = service->calls_asked;
        pthread_cond_broadcast(&service->called);
    }
    pthread_mutex_unlock(&service->lock_call);
}

bool service_call(struct service *service, void (*call)(struct service *, void *), void *context)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += 5;
    pthread_mutex_lock(&service->lock_call);
    uint64_t mine = ++service->calls_asked, one = 1;
    service->call = call;
    service->call_context = context;
    bool done = !service->deaf && write(service->wake, &one, sizeof one) == (ssize_t)sizeof one;
    while (done && service->calls_done < mine)
        done = pthread_cond_timedwait(&service->called, &service->lock_call, &until) == 0 && !service->deaf;
    /* Given up: it must not be run with a context that is gone. */
    if (!done)
        service->calls_done = service->calls_asked;
    pthread_mutex_unlock(&service->lock_call);
    return done;
}

/* ---- opening ----------------------------------------------------------------------------------------- */

/* Is the file that we hold the lock on still the directory's? Otherwise somebody else may serve it by now. */
static bool holds_lock(const struct service *service)
{
    char path[DIRECTORY_PATH_MAX];
    struct stat ours, there;
    return directory_join(path, service->directory, DIRECTORY_LOCK) == 0 &&
           fstat(service->lock, &ours) == 0 && stat(path, &there) == 0 && ours.st_ino == there.st_ino &&
           ours.st_dev == there.st_dev;
}

static int try_lock(struct service *service)
{
    char path[DIRECTORY_PATH_MAX];
    int rc = directory_make(service->directory);
    if (rc == 0)
        rc = directory_join(path, service->directory, DIRECTORY_LOCK);
    if (rc != 0)
        return rc;
    service->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (service->lock < 0)
        return fault(errno, "cannot open %s", path);
    /* One that was just killed holds its lock until the kernel has taken it apart. */
    int tries = 0;
    while (flock(service->lock, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK || ++tries == LOCK_TRIES)
            return fault(errno, "another aggregator serves %s", service->directory);
        usleep(LOCK_PAUSE_US);
    }
    TESTPOINT("lock-taken"); /* Another aggregator is refused as long as the kernel knows of this one. */
    /* The holder before us may have removed the file as it ended: then ours is a lock on nothing. */
    return holds_lock(service) ? 0 : fault(ESTALE, "%s was just removed", path);
}

static int take_lock(struct service *service)
{
    const struct service_options *options = &service->options;
    bool asked = false;
    for (int tries = 0;; tries++) {
        int rc = try_lock(service);
        bool passes = rc == -ESTALE || rc == -EWOULDBLOCK;
        if (rc == 0 || !passes || options->private || options->once || tries == HANDOVER_TRIES)
            return rc;
        if (rc == -EWOULDBLOCK && !asked && !succession_ask(service->directory))
            return rc;
        asked = true;
        close(service->lock);
        service->lock = -1;
    }
}

static void add_to_epoll(const struct service *service, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(service->epoll, EPOLL_CTL_ADD, fd, &event);
}

static int open_descriptors(struct service *service)
{
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGTERM);
    sigaddset(&wanted, SIGINT);
    sigaddset(&wanted, SIGHUP);
    /* Blocked before any thread starts, so that all signals come to the descriptor. */
    pthread_sigmask(SIG_BLOCK, &wanted, NULL);
    signal(SIGPIPE, SIG_IGN);
    service->epoll = epoll_create1(EPOLL_CLOEXEC);
    service->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    service->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    service->signals = signalfd(-1, &wanted, SFD_NONBLOCK | SFD_CLOEXEC);
    if (service->epoll < 0 || service->wake < 0 || service->signals < 0)
        return fault(errno, "cannot open descriptors");
    add_to_epoll(service, service->wake);
    add_to_epoll(service, service->signals);
    /* Without inotify (its limits are per user) only the look round is left. */
    if (service->inotify >= 0) {
        add_to_epoll(service, service->inotify);
        watch(service, service->directory, IN_CREATE | IN_MOVED_TO);
    }
    return 0;
}

int service_open(struct service *service, const struct service_options *options)
{
    memset(service, 0, sizeof *service);
    service->options = *options;
    service->lock = service->epoll = service->inotify = service->wake = service->signals = -1;
    pthread_mutex_init(&service->lock_call, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&service->called, &clock);
    pthread_condattr_destroy(&clock);
    int rc = 0;
    if (strlen(options->directory) >= sizeof service->directory)
        rc = fault(ENAMETOOLONG, "%s", options->directory);
    else
        strcpy(service->directory, options->directory);
    if (rc == 0 && options->config_path != NULL)
        rc = config_read(&service->config, options->config_path);
    if (rc == 0)
        rc = take_lock(service);
    if (rc == 0)
        rc = open_descriptors(service);
    if (rc == 0)
        rc = guard_install();
    if (rc != 0)
        return rc;
    uint64_t now = clock_monotonic_ns();
    service->started_ns = service->attached_at_ns = now;
    service->cycle_at_ns = now + POOL_CYCLE_NS;
    service->scan_at_ns = now + NS_PER_SECOND;
    scan(service, true);
    return 0;
}

int service_talk(struct service *service)
{
    char path[DIRECTORY_PATH_MAX];
    const struct control_handlers handlers = {
        .answer = answers_answer,
        .guest = answers_guest,
        .sync = answers_sync,
        .thread_begin = answers_thread_begin,
        .thread_end = answers_thread_end,
        .context = service,
    };
    int rc = directory_join(path, service->directory, DIRECTORY_CONTROL);
    if (rc == 0)
        rc = control_start(path, &handlers);
    service->talking = rc == 0;
    return rc;
}

/* ---- the loop ---------------------------------------------------------------------------------------- */

static void read_signals(struct service *service)
{
    struct signalfd_siginfo info;
    while (read(service->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGHUP)
            service->reload = true;
        else
            service->stop = true;
    }
}

static void reload(struct service *service)
{
    service->reload = false;
    destinations_reopen();
    if (service->options.config_path == NULL)
        return;
    if (config_read(&service->config, service->options.config_path) != 0) {
        log_line("the configuration stays as it was: %s", fault_text());
        return;
    }
    for (unsigned i = 0; i < service->pools; i++)
        pool_reload(service->pool[i]);
    log_line("the configuration was read again");
}

static void read_inotify(struct service *service)
{
    _Alignas(struct inotify_event) char events[4096];
    bool rang = false; /* which is all that a budget page is watched for */
    ssize_t n = read(service->inotify, events, sizeof events); /* what is left comes with the next sleep */
    for (ssize_t at = 0; at < n;) {
        const struct inotify_event *event = (const void *)(events + at);
        if (event->mask & IN_ATTRIB)
            rang = true;
        else
            service->rescan = true;
        at += (ssize_t)(sizeof *event + event->len);
    }
    service->rings += rang;
}

/* Sleep until `until_ns` or until something calls. Returns whether that was inotify. */
static bool sleep_until(struct service *service, uint64_t until_ns)
{
    struct epoll_event event[4];
    bool notified = false;
    uint64_t now = clock_monotonic_ns();
    int wait_ms = until_ns > now ? (int)((until_ns - now) / 1000000 + 1) : 0;
    int n = epoll_wait(service->epoll, event, 4, wait_ms);
    for (int i = 0; i < n; i++) {
        if (event[i].data.fd == service->wake) {
            serve_call(service);
        } else if (event[i].data.fd == service->signals) {
            read_signals(service);
        } else {
            read_inotify(service);
            notified = true;
        }
    }
    return notified;
}

static void rest_after(uint64_t round_ns)
{
    uint64_t until_ns = round_ns + PACE_SHORTEST_MS * UINT64_C(1000000);
    struct timespec until = {.tv_sec = (time_t)(until_ns / NS_PER_SECOND),
                             .tv_nsec = (long)(until_ns % NS_PER_SECOND)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

static bool is_over(struct service *service, uint64_t now)
{
    uint64_t ever = 0;
    bool waiting = attached(service) != 0;
    for (unsigned i = 0; i < service->pools; i++) {
        ever += service->pool[i]->ever;
        /* Where no checkpoint can be written any more, or no file removed, waiting would be for ever. */
        waiting |= service->pool[i]->workers != NULL && !service->pool[i]->checkpoint_failed &&
                   !service->pool[i]->removal_failed;
    }
    if (waiting)
        service->attached_at_ns = now;
    double alone_s = (double)(now - service->attached_at_ns) / 1e9;
    double patience_s = service->options.linger_s;
    if (ever == 0 && patience_s < SERVICE_FIRST_WORKER_S)
        patience_s = SERVICE_FIRST_WORKER_S;
    return service->options.private && alone_s >= patience_s;
}

void service_run(struct service *service)
{
    while (!service->stop) {
        uint64_t now = clock_monotonic_ns();
        if (service->rescan || now >= service->scan_at_ns) {
            scan(service, service->rescan);
            service->rescan = false;
            service->scan_at_ns = now + NS_PER_SECOND;
            if (!holds_lock(service)) {
                log_line("%s was removed: nothing is left to serve", service->directory);
                service->lost = true;
                break;
            }
        }
        if (service->reload)
            reload(service);
        uint64_t moved = round_of_all(service);
        for (unsigned i = 0; i < service->pools; i++)
            pool_heartbeat(service->pool[i], now);
        bool cycle = now >= service->cycle_at_ns;
        if (cycle)
            cycle_of_all(service, now);
        else
            brake(service, now);
        checkpoint_if_due(service, now);
        set_pace(service, moved, cycle);
        if (is_over(service, now))
            break;
        uint64_t next = now + service->pace.ms * UINT64_C(1000000);
        /* Who makes files in a loop may hurry us no more than lanes that fill do. */
        if (sleep_until(service, next < service->cycle_at_ns ? next : service->cycle_at_ns))
            rest_after(now);
    }
}

/* So that nobody waits for an answer that will not come. */
static void stop_calls(struct service *service)
{
    pthread_mutex_lock(&service->lock_call);
    service->deaf = true;
    pthread_cond_broadcast(&service->called);
    pthread_mutex_unlock(&service->lock_call);
}

/* ---- closing ----------------------------------------------------------------------------------------- */

static bool ending_workers(const struct service *service)
{
    for (unsigned i = 0; i < service->pools; i++)
        for (const struct worker *worker = service->pool[i]->workers; worker != NULL; worker = worker->next)
            if ((worker->dead || worker->closed) && !worker->final && !worker->quarantined)
                return true;
    return false;
}

static void drain_all(struct service *service)
{
    scan(service, true);
    for (int i = 0; i < LAST_ROUNDS; i++) {
        uint64_t moved = round_of_all(service);
        if (i >= 2 && moved == 0 && !ending_workers(service))
            break;
        usleep(2000);
    }
    service_cut(service);
    for (unsigned i = 0; i < service->pools; i++) {
        struct pool *pool = service->pool[i];
        if (pool->dirty && !service->lost)
            checkpoint_write(pool);
    }
}

static void remove_all(struct service *service)
{
    char path[DIRECTORY_PATH_MAX];
    for (unsigned i = 0; i < service->pools; i++)
        if (service->pool[i]->attached == 0)
            pool_remove(service->pool[i]);
    if (directory_join(path, service->directory, DIRECTORY_LOCK) == 0)
        unlink(path);
    TESTPOINT("lock-removed"); /* Another aggregator may serve the folder; of this one nothing is left. */
}

int service_close(struct service *service)
{
    int rc = 0;
    if (service->talking) {
        stop_calls(service);
        control_stop();
    }
    if (service->epoll >= 0) {
        drain_all(service);
        if (service->options.final_report != NULL)
            rc = answers_final_report(service, service->options.final_report);
        destinations_stop(3000);
        if (service->options.private && !service->lost && attached(service) == 0)
            remove_all(service);
    }
    for (unsigned i = 0; i < service->pools; i++)
        pool_close(service->pool[i]);
    const int descriptors[] = {service->epoll, service->inotify, service->wake, service->signals,
                               service->lock};
    for (size_t i = 0; i < sizeof descriptors / sizeof *descriptors; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
    return rc;
}
