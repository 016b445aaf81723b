/* The registry of destinations: see destination.h; what delivers is delivery.c. */
#include "aggregator/destination/destination.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "aggregator/destination/delivery.h"
#include "shm/clock.h"
#include "shm/fault.h"

enum {
    QUEUE_BYTES_MAX = 8 << 20,
};

struct delivery delivery = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = -1};

void delivery_ring(void)
{
    uint64_t one = 1;
    ssize_t ignored = write(delivery.wake, &one, sizeof one); /* fails only if it is rung already */
    (void)ignored;
}

/* With the lock held; also a removed one that is still being delivered. */
static struct destination *find_any(int id)
{
    for (struct destination *d = delivery.first; d != NULL; d = d->next)
        if (d->id == id)
            return d;
    return NULL;
}

/* With the lock held. */
static struct destination *find(int id)
{
    struct destination *d = find_any(id);
    return d == NULL || d->removed ? NULL : d;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool same_spec(const struct destination_spec *a, const struct destination_spec *b)
{
    return a->kind == b->kind && a->form == b->form && a->profiles == b->profiles && a->flush == b->flush &&
           a->no_links == b->no_links && a->timeout_s == b->timeout_s && a->verify == b->verify &&
           a->check_hostname == b->check_hostname && a->gzip == b->gzip && a->newest_tls == b->newest_tls &&
           a->spool_bytes == b->spool_bytes && a->spool_age_s == b->spool_age_s &&
           same_text(a->token_file, b->token_file) && same_text(a->pool, b->pool) &&
           same_text(a->path, b->path) && same_text(a->url, b->url) && same_text(a->ca_pem, b->ca_pem) &&
           same_text(a->certfile, b->certfile) && same_text(a->keyfile, b->keyfile);
}

void destination_free(struct destination *d)
{
    const char *texts[] = {d->spec.pool,     d->spec.path,    d->spec.url,       d->spec.ca_pem,
                           d->spec.certfile, d->spec.keyfile, d->spec.token_file};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        free((char *)(uintptr_t)texts[i]);
    line_queue_clear(&d->queue);
    free(d->batch.bytes);
    free(d->spare.bytes);
    free(d->target);
    free(d);
}

static struct destination *destination_make(const struct destination_spec *spec)
{
    struct destination *d = calloc(1, sizeof *d);
    if (d == NULL)
        return NULL;
    d->spec = *spec;
    d->queue.limit_bytes = QUEUE_BYTES_MAX;
    d->file.fd = -1;
    spool_init(&d->spool);
    bool ok = true;
    const char **texts[] = {&d->spec.pool,     &d->spec.path,    &d->spec.url,       &d->spec.ca_pem,
                            &d->spec.certfile, &d->spec.keyfile, &d->spec.token_file};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (*texts[i] != NULL) {
            *texts[i] = strdup(*texts[i]);
            ok = ok && *texts[i] != NULL;
        }
    d->target = !ok ? NULL : spec->kind == DESTINATION_REST ? rest_shown_url(spec->url) : strdup(spec->path);
    if (d->target == NULL) {
        destination_free(d);
        return NULL;
    }
    d->file.path = d->spec.path;
    d->file.no_links = d->spec.no_links;
    return d;
}

/* ---- what others call ---- */

int destinations_start(void)
{
    if (delivery.wake >= 0)
        return 0;
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    int error = pthread_cond_init(&delivery.progress, &clock);
    pthread_condattr_destroy(&clock);
    if (error != 0)
        return fault(error, "cannot set up delivery");
    delivery.wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return delivery.wake < 0 ? fault(errno, "cannot set up delivery") : 0;
}

/* With the lock held. */
static int start_thread(void)
{
    if (delivery.running)
        return 0;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    delivery.stopping = false;
    int error = pthread_create(&delivery.thread, NULL, delivery_thread, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        return fault(error, "cannot start the delivery thread");
    pthread_setname_np(delivery.thread, "pom-deliver");
    delivery.running = true;
    return 0;
}

/* With the lock held: link a new destination. Takes it over; NULL: no memory for it. */
static int enlist(struct destination *d)
{
    int rc = delivery.wake < 0 ? fault(EINVAL, "delivery has not been started")
             : d == NULL       ? fault(ENOMEM, "cannot add a destination")
             : delivery.count >= DESTINATIONS_MAX
                 ? fault(ENOSPC, "more than %d destinations", DESTINATIONS_MAX)
                 : start_thread();
    if (rc != 0) {
        if (d != NULL)
            destination_free(d);
        return rc;
    }
    d->id = delivery.next_id++;
    d->next = delivery.first;
    delivery.first = d;
    delivery.count++;
    delivery_ring(); /* something may wait for it on disk */
    return d->id;
}

int destination_add(const struct destination_spec *spec)
{
    if (spec->kind == DESTINATION_FILE && (spec->path == NULL || spec->path[0] != '/'))
        return fault(EINVAL, "file destination %s: not an absolute path",
                     spec->path == NULL ? "" : spec->path);
    if (spec->kind == DESTINATION_REST) {
        int rc = rest_check_url(spec->url == NULL ? "" : spec->url);
        if (rc == 0 && spec->token_file != NULL && !rest_is_private(spec->url))
            rc = fault(EINVAL, "a token is not sent to %s without TLS", spec->url);
        if (rc != 0)
            return fault_in(rc, "REST destination");
    }
    int id = -1;
    pthread_mutex_lock(&delivery.lock);
    for (struct destination *d = delivery.first; d != NULL && id < 0; d = d->next)
        if (!d->removed && same_spec(&d->spec, spec))
            id = d->id;
    if (id < 0)
        id = enlist(destination_make(spec));
    pthread_mutex_unlock(&delivery.lock);
    return id;
}

void destination_remove(int id)
{
    pthread_mutex_lock(&delivery.lock);
    struct destination *d = find(id);
    if (d != NULL) {
        d->removed = true;
        d->failures_at_removal = d->failures;
        delivery_ring();
    }
    pthread_mutex_unlock(&delivery.lock);
}

void destination_put(int id, const char *line, size_t bytes)
{
    bool wake = false;
    pthread_mutex_lock(&delivery.lock);
    struct destination *d = find(id);
    if (d != NULL) {
        size_t before = line_queue_bytes(&d->queue);
        if (before == 0)
            d->waiting_since_ns = clock_monotonic_ns();
        d->put++;
        d->dropped += line_queue_put(&d->queue, line, bytes);
        /* The thread must look again only where this line changes when its destination is due. */
        size_t after = line_queue_bytes(&d->queue);
        wake = before == 0 || (before < GATHER_FILE_BYTES && after >= GATHER_FILE_BYTES) ||
               (before < BATCH_BYTES_MAX && after >= BATCH_BYTES_MAX);
    }
    pthread_mutex_unlock(&delivery.lock);
    if (wake)
        delivery_ring();
}

/* What a caller waits for: that so many lines are through, or that one more attempt has failed. */
struct goal {
    int id;
    bool on_disk; /* on disk is through */
    uint64_t put, inherited, failures, spool_failures;
};

/* With the lock held. */
static bool reached(const struct goal *goal)
{
    const struct destination *d = find_any(goal->id);
    if (d == NULL)
        return true;
    /* What was found on disk since then counts as put before. */
    uint64_t put = goal->put + d->inherited - goal->inherited;
    return (goal->on_disk ? destination_secured(d) : destination_settled(d)) >= put ||
           d->failures > goal->failures || (goal->on_disk && d->spool_failures > goal->spool_failures);
}

/* With the lock held. */
static bool wait_for_goals(const struct goal *goals, unsigned count, unsigned timeout_ms)
{
    uint64_t deadline = clock_monotonic_ns() + (uint64_t)timeout_ms * 1000000;
    struct timespec until = {.tv_sec = (time_t)(deadline / NS_PER_SECOND),
                             .tv_nsec = (long)(deadline % NS_PER_SECOND)};
    int error = 0;
    if (count != 0)
        delivery_ring();
    for (unsigned i = 0; i < count && error == 0;) {
        if (reached(&goals[i]))
            i++;
        else
            error = pthread_cond_timedwait(&delivery.progress, &delivery.lock, &until);
    }
    return error == 0;
}

bool destination_sync(unsigned timeout_ms)
{
    struct goal goals[DESTINATIONS_MAX];
    unsigned count = 0;

    pthread_mutex_lock(&delivery.lock);
    for (struct destination *d = delivery.first; d != NULL; d = d->next) {
        if (destination_settled(d) >= d->put || d->told_to_wait)
            continue;
        goals[count++] =
            (struct goal){.id = d->id, .put = d->put, .inherited = d->inherited, .failures = d->failures};
        d->hurry_until = d->put;
    }
    bool through = wait_for_goals(goals, count, timeout_ms);
    pthread_mutex_unlock(&delivery.lock);
    return through;
}

bool destinations_secure(unsigned timeout_ms)
{
    struct goal goals[DESTINATIONS_MAX];
    unsigned count = 0;
    pthread_mutex_lock(&delivery.lock);
    for (struct destination *d = delivery.first; d != NULL; d = d->next) {
        bool rest = d->spec.kind == DESTINATION_REST;
        /* A file that cannot be written and a server without a spool have nothing safer than our memory. */
        if (destination_secured(d) >= d->put || (rest ? d->spec.spool_bytes == 0 : d->failing))
            continue;
        goals[count++] = (struct goal){.id = d->id,
                                       .on_disk = rest,
                                       .put = d->put,
                                       .inherited = d->inherited,
                                       .failures = rest ? UINT64_MAX : d->failures,
                                       .spool_failures = d->spool_failures};
        if (rest)
            d->secure_until = d->put;
        else
            d->hurry_until = d->put;
    }
    bool through = wait_for_goals(goals, count, timeout_ms);
    pthread_mutex_unlock(&delivery.lock);
    return through;
}

void destinations_reopen(void)
{
    pthread_mutex_lock(&delivery.lock);
    delivery.reopen = true;
    pthread_mutex_unlock(&delivery.lock);
}

bool destination_idle(int id)
{
    pthread_mutex_lock(&delivery.lock);
    const struct destination *d = find(id);
    bool idle = d == NULL || destination_settled(d) >= d->put;
    pthread_mutex_unlock(&delivery.lock);
    return idle;
}

json_t *destination_status(int id)
{
    json_t *status = NULL;
    pthread_mutex_lock(&delivery.lock);
    const struct destination *d = find(id);
    if (d != NULL)
        status = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:s?}", "kind",
                           d->spec.kind == DESTINATION_REST ? "rest" : "file", "target", d->target,
                           "delivered", (json_int_t)d->delivered, "failed", (json_int_t)d->failed, "dropped",
                           (json_int_t)d->dropped, "waiting", (json_int_t)(d->put - destination_settled(d)),
                           "spooled", (json_int_t)d->spooled, "last_error",
                           d->last_error[0] == '\0' ? NULL : d->last_error);
    pthread_mutex_unlock(&delivery.lock);
    return status;
}

void destinations_stop(unsigned timeout_ms)
{
    if (delivery.wake < 0)
        return;
    destination_sync(timeout_ms);
    pthread_mutex_lock(&delivery.lock);
    bool running = delivery.running;
    delivery.stopping = true;
    pthread_mutex_unlock(&delivery.lock);
    if (running) {
        delivery_ring();
        pthread_join(delivery.thread, NULL);
    }
    delivery.running = false;
    close(delivery.wake);
    delivery.wake = -1;
    pthread_cond_destroy(&delivery.progress);
}
