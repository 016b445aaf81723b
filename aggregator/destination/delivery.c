/*
 * The delivery thread: takes lines out of the queues, writes or posts them, and decides when to try again.
 * See delivery.h for who owns what.
 */
#include "aggregator/destination/delivery.h"

#include <curl/curl.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "aggregator/log.h"
#include "shm/clock.h"
#include "shm/fault.h"
#include "shm/testpoint.h"

enum {
    GATHER_FILE_MS = 1000,
    GATHER_REST_MS = 100,
    ANSWERS_MAX =
        12, /* a batch that a server answered with 5xx so often may be the cause: others get a turn */
};

/* Pauses between attempts: doubled each time, and spread so that many do not come back at once. */
static const double pause_first_s = 0.5, pause_file_max_s = 5, pause_rest_max_s = 30;

static CURLM *multi; /* NULL until the first REST destination needs it */

/* ---- one destination; with the lock held ---- */

static bool in_hurry(const struct destination *d)
{
    return d->removed || destination_settled(d) < d->hurry_until;
}

static bool has_work(const struct destination *d)
{
    return d->batch.bytes != NULL || d->spare.bytes != NULL || d->spooled != 0 ||
           line_queue_bytes(&d->queue) != 0;
}

/* Must it go to the disk now? What a checkpoint takes for handed on must not end with this process; and while
 * the server is away the queue is not to fill up. */
static bool wants_spool(const struct destination *d)
{
    return d->spec.spool_bytes != 0 && d->spec.kind == DESTINATION_REST &&
           (destination_secured(d) < d->secure_until ||
            (d->failing && d->spool_failures == 0 && line_queue_bytes(&d->queue) >= BATCH_BYTES_MAX));
}

/* When its next attempt is due; UINT64_MAX if nothing waits, or an answer is awaited. */
static uint64_t due_ns(const struct destination *d)
{
    if (wants_spool(d))
        return 0;
    if (d->posting || !has_work(d))
        return UINT64_MAX;
    if (in_hurry(d) && !d->told_to_wait)
        return 0;
    uint64_t gather_ms = d->spec.kind == DESTINATION_REST ? GATHER_REST_MS
                         : d->spec.flush                  ? 0
                                                          : GATHER_FILE_MS;
    size_t enough = d->spec.kind == DESTINATION_REST ? BATCH_BYTES_MAX : GATHER_FILE_BYTES;
    bool full = d->batch.bytes != NULL || d->spare.bytes != NULL || d->spooled != 0 ||
                line_queue_bytes(&d->queue) >= enough;
    uint64_t due = full ? 0 : d->waiting_since_ns + gather_ms * 1000000;
    return due > d->not_before_ns ? due : d->not_before_ns;
}

/* ---- the thread: attempts ---- */

static void forget_batch(struct destination *d)
{
    free(d->batch.bytes);
    d->batch = (struct batch){0};
}

/* Without the lock: the batch is through, or given up for ever. */
static void settle(struct destination *d, bool delivered, const char *error)
{
    pthread_mutex_lock(&delivery.lock);
    *(delivered ? &d->delivered : &d->failed) += d->batch.lines;
    d->spooled -= d->batch.spooled ? d->batch.lines : 0;
    if (!delivered)
        snprintf(d->last_error, sizeof d->last_error, "%s", error);
    d->failing = d->told_to_wait = false;
    pthread_cond_broadcast(&delivery.progress);
    pthread_mutex_unlock(&delivery.lock);
    if (!delivered)
        log_line("destination %s: %s; given up %llu message(s)", d->target, error,
                 (unsigned long long)d->batch.lines);
    else if (d->ailing)
        log_line("destination %s: works again", d->target);
    d->ailing = false;
    d->pause_s = 0;
    d->not_before_ns = 0;
    TESTPOINT("batch-settled"); /* The receiver has it. If it lies on disk the next life posts it again. */
    if (d->batch.spooled)
        spool_remove_first(&d->spool);
    forget_batch(d);
}

/* Without the lock: the batch stays and is tried again. */
static void postpone(struct destination *d, const char *error, double asked_s)
{
    double longest_s = d->spec.kind == DESTINATION_REST ? pause_rest_max_s : pause_file_max_s;
    d->pause_s = d->pause_s == 0 ? pause_first_s : d->pause_s * 2;
    if (d->pause_s > longest_s)
        d->pause_s = longest_s;
    uint32_t random = 0;
    ssize_t ignored = getrandom(&random, sizeof random, GRND_NONBLOCK);
    (void)ignored;
    double part = (double)random / UINT32_MAX;
    /* A server that names a time knows better; but not all shall come at once then. */
    double wait_s = asked_s > 0 ? asked_s * (1 + 0.1 * part) : d->pause_s * (0.5 + part);
    d->not_before_ns = clock_monotonic_ns() + (uint64_t)(wait_s * 1e9);
    if (!d->ailing) /* said once, not at each attempt */
        log_line("destination %s: %s; trying again", d->target, error);
    d->ailing = true;

    pthread_mutex_lock(&delivery.lock);
    d->failures++;
    d->hurry_until = 0;
    d->failing = true;
    d->told_to_wait = asked_s > 0;
    snprintf(d->last_error, sizeof d->last_error, "%s", error);
    pthread_cond_broadcast(&delivery.progress);
    pthread_mutex_unlock(&delivery.lock);
}

static void name_batch(struct batch *batch)
{
    uint8_t id[16];
    if (getrandom(id, sizeof id, 0) != sizeof id)
        memset(id, 0, sizeof id);
    for (unsigned i = 0; i < sizeof id; i++)
        snprintf(batch->key + 2 * i, 3, "%02x", id[i]);
}

/* ---- the thread: the spool ---------------------------------------------------------------------------- */

/* The folder of a destination: its own in all lives, and nobody else's. */
static void spool_name(const struct destination *d, char out[24])
{
    const char *parts[] = {d->spec.pool, d->spec.url, d->spec.form == DESTINATION_CLASSIC ? "" : "eliot",
                           d->spec.profiles ? "profiles" : ""};
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        for (const char *p = parts[i] != NULL ? parts[i] : "";; p++) {
            hash = (hash ^ (uint8_t)*p) * UINT64_C(1099511628211);
            if (*p == '\0')
                break;
        }
    snprintf(out, 24, "%016llx", (unsigned long long)hash);
}

static void spool_failed(struct destination *d)
{
    if (!d->spool_ailing)
        log_line("destination %s: %s; what waits for it is kept in memory", d->target, fault_text());
    d->spool_ailing = true;
}

/* Open it, once, and count what an earlier life left in it. Without the lock. */
static void ready_spool(struct destination *d)
{
    char name[24];
    if (d->spool_tried)
        return;
    d->spool_tried = true;
    if (d->spec.kind != DESTINATION_REST || d->spec.spool_bytes == 0)
        return;
    spool_name(d, name);
    if (spool_open(&d->spool, name, d->spec.spool_bytes, d->spec.spool_age_s) != 0) {
        spool_failed(d);
        return;
    }
    pthread_mutex_lock(&delivery.lock);
    d->put += d->spool.lines;
    d->inherited += d->spool.lines;
    d->hurry_until += d->hurry_until != 0 ? d->spool.lines : 0;
    d->secure_until += d->secure_until != 0 ? d->spool.lines : 0;
    d->spooled = d->spool.lines;
    pthread_mutex_unlock(&delivery.lock);
    if (d->spool.lines != 0)
        log_line("destination %s: %llu message(s) wait on disk", d->target,
                 (unsigned long long)d->spool.lines);
}

/* One batch to the disk. Without the lock. */
static bool spool_batch(struct destination *d, struct batch *batch)
{
    uint64_t dropped = 0;
    if (!spool_is_open(&d->spool) || spool_add(&d->spool, batch->bytes, batch->length, batch->lines,
                                               batch->key, d->batch.spooled, &dropped) != 0) {
        if (spool_is_open(&d->spool))
            spool_failed(d);
        return false;
    }
    batch->spooled = true;
    d->spool_ailing = false;
    pthread_mutex_lock(&delivery.lock);
    d->dropped += dropped;
    d->spooled += batch->lines - dropped;
    pthread_mutex_unlock(&delivery.lock);
    return true;
}

/* Without the lock. */
static void take_from_queue(struct destination *d, struct batch *batch)
{
    pthread_mutex_lock(&delivery.lock);
    batch->length = line_queue_take(&d->queue, BATCH_BYTES_MAX, &batch->bytes, &batch->lines);
    d->waiting_since_ns = clock_monotonic_ns();
    pthread_mutex_unlock(&delivery.lock);
    if (batch->bytes != NULL)
        name_batch(batch);
}

/* Everything that waits, oldest first. Without the lock. */
static void spool_all(struct destination *d)
{
    ready_spool(d);
    /* A batch that came from the queue was taken when the spool was empty, so it is older than all in it. */
    bool kept = d->batch.bytes == NULL || d->batch.spooled || spool_batch(d, &d->batch);
    while (kept) {
        if (d->spare.bytes == NULL)
            take_from_queue(d, &d->spare);
        if (d->spare.bytes == NULL)
            break;
        kept = spool_batch(d, &d->spare);
        if (kept) {
            free(d->spare.bytes);
            d->spare = (struct batch){0};
        }
    }
    pthread_mutex_lock(&delivery.lock);
    d->secure_until = 0;
    d->spool_failures = kept ? 0 : d->spool_failures + 1;
    pthread_cond_broadcast(&delivery.progress);
    pthread_mutex_unlock(&delivery.lock);
}

/* The oldest that waits becomes the batch: what is on disk before what is in the queue. Without the lock. */
static void next_batch(struct destination *d)
{
    uint64_t dropped = 0;
    ready_spool(d);
    if (spool_count(&d->spool) != 0) {
        struct spool_entry entry;
        if (spool_load_first(&d->spool, &d->batch.bytes, &entry, &dropped) == 0 && d->batch.bytes != NULL) {
            d->batch.length = entry.bytes;
            d->batch.lines = entry.lines;
            d->batch.spooled = true;
            memcpy(d->batch.key, entry.key, sizeof d->batch.key);
        }
    }
    pthread_mutex_lock(&delivery.lock);
    d->dropped += dropped;
    d->spooled -= dropped;
    pthread_mutex_unlock(&delivery.lock);
    if (d->batch.bytes != NULL || d->spooled != 0)
        return;
    if (d->spare.bytes != NULL) {
        d->batch = d->spare;
        d->spare = (struct batch){0};
    } else {
        take_from_queue(d, &d->batch);
    }
}

/* A batch that may be what the server chokes on: others get a turn. False if it cannot wait on disk. */
static bool set_aside(struct destination *d)
{
    if (!d->batch.spooled) {
        ready_spool(d);
        if (!spool_batch(d, &d->batch))
            return false;
    }
    spool_rotate_first(&d->spool);
    forget_batch(d);
    return true;
}

static int ready_rest(struct destination *d)
{
    if (multi == NULL) {
        if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0 || (multi = curl_multi_init()) == NULL)
            return fault(ENOMEM, "cannot start libcurl");
    }
    if (d->rest == NULL && (d->rest = rest_sink_create(multi, &d->spec, d)) == NULL)
        return fault(ENOMEM, "cannot set up %s", d->target);
    return 0;
}

/* Without the lock: one attempt with the batch. */
static void attempt(struct destination *d)
{
    int rc;
    if (d->spec.kind == DESTINATION_FILE) {
        rc = file_sink_write(&d->file, d->batch.bytes, d->batch.length, &d->batch.done);
        if (rc == 0)
            settle(d, true, "");
    } else {
        rc = ready_rest(d);
        if (rc == 0)
            rc = rest_sink_post(d->rest, d->batch.bytes, d->batch.length, d->batch.key);
        d->posting = rc == 0;
    }
    if (rc != 0)
        postpone(d, fault_text(), 0);
}

static void transfer_ended(struct destination *d, CURLcode result)
{
    char error[256];
    double asked_s;
    bool chokes;
    enum rest_outcome outcome = rest_sink_finish(d->rest, result, error, sizeof error, &asked_s, &chokes);
    d->posting = false;
    bool often = outcome == REST_RETRY && chokes && ++d->batch.answers >= ANSWERS_MAX;
    if (often && !set_aside(d))
        outcome = REST_REFUSED;
    else if (often)
        d->pause_s = 0;
    if (outcome == REST_RETRY)
        postpone(d, error, asked_s);
    else
        settle(d, outcome == REST_DELIVERED, error);
}

/* ---- the thread: its loop ---- */

/* With the lock held: a removed destination goes when it has nothing left, or could not deliver it. */
static struct destination *unlink_finished(void)
{
    for (struct destination **at = &delivery.first; *at != NULL; at = &(*at)->next) {
        struct destination *d = *at;
        bool tried = d->told_to_wait || d->failures > d->failures_at_removal;
        if (!d->removed || d->posting || (has_work(d) && !tried))
            continue;
        *at = d->next;
        delivery.count--;
        pthread_cond_broadcast(&delivery.progress);
        return d;
    }
    return NULL;
}

static void sweep(void)
{
    struct destination *d;
    for (;;) {
        pthread_mutex_lock(&delivery.lock);
        d = unlink_finished();
        pthread_mutex_unlock(&delivery.lock);
        if (d == NULL)
            return;
        if (d->spec.kind == DESTINATION_REST && d->spec.spool_bytes != 0 && has_work(d))
            spool_all(d);
        if (d->spooled != 0)
            log_line("destination %s: removed; %llu message(s) wait on disk until it is added again",
                     d->target, (unsigned long long)d->spooled);
        uint64_t lost =
            (d->batch.spooled ? 0 : d->batch.lines) + d->spare.lines + line_queue_clear(&d->queue);
        if (lost != 0)
            log_line("destination %s: removed with %llu message(s) undelivered", d->target,
                     (unsigned long long)lost);
        spool_close(&d->spool);
        file_sink_close(&d->file);
        rest_sink_destroy(d->rest);
        destination_free(d);
    }
}

/* Start what is due, one batch a destination; returns when the next is due. */
static uint64_t start_due(void)
{
    uint64_t now = clock_monotonic_ns(), next = UINT64_MAX;
    pthread_mutex_lock(&delivery.lock);
    bool reopen = delivery.reopen;
    delivery.reopen = false;
    for (struct destination *d = delivery.first; reopen && d != NULL; d = d->next)
        file_sink_close(&d->file);
    for (struct destination *d = delivery.first; d != NULL; d = d->next) {
        /* Only this thread takes a destination out of the list, so `d` stays good without the lock. */
        if (!d->spool_tried) {
            pthread_mutex_unlock(&delivery.lock);
            ready_spool(d);
            pthread_mutex_lock(&delivery.lock);
        }
        if (wants_spool(d)) {
            pthread_mutex_unlock(&delivery.lock);
            spool_all(d);
            pthread_mutex_lock(&delivery.lock);
        }
        if (due_ns(d) <= now) {
            pthread_mutex_unlock(&delivery.lock);
            if (d->batch.bytes == NULL)
                next_batch(d);
            if (d->batch.bytes != NULL)
                attempt(d);
            else if (has_work(d))
                d->not_before_ns = now + NS_PER_SECOND; /* no memory now */
            pthread_mutex_lock(&delivery.lock);
        }
        uint64_t due = due_ns(d);
        next = due < next ? due : next;
    }
    pthread_mutex_unlock(&delivery.lock);
    return next;
}

static void run_transfers(void)
{
    int running, left;
    const CURLMsg *message;
    if (multi == NULL)
        return;
    curl_multi_perform(multi, &running);
    while ((message = curl_multi_info_read(multi, &left)) != NULL)
        if (message->msg == CURLMSG_DONE)
            transfer_ended(rest_sink_owner(message->easy_handle), message->data.result);
}

static void wait_until(uint64_t due)
{
    uint64_t now = clock_monotonic_ns(), rung;
    int timeout_ms = due <= now                       ? 0
                     : due - now > 60 * NS_PER_SECOND ? 60000
                                                      : (int)((due - now) / 1000000) + 1;
    if (multi != NULL) {
        struct curl_waitfd wake = {.fd = delivery.wake, .events = CURL_WAIT_POLLIN};
        curl_multi_poll(multi, &wake, 1, timeout_ms, NULL);
    } else {
        struct pollfd wake = {.fd = delivery.wake, .events = POLLIN};
        poll(&wake, 1, timeout_ms);
    }
    ssize_t ignored = read(delivery.wake, &rung, sizeof rung); /* non-blocking; mostly not rung */
    (void)ignored;
}

void *delivery_thread(void *unused)
{
    for (;;) {
        uint64_t next = start_due();
        run_transfers();
        sweep();
        pthread_mutex_lock(&delivery.lock);
        bool stopping = delivery.stopping;
        for (struct destination *d = delivery.first; d != NULL; d = d->next)
            if (due_ns(d) < next)
                next = due_ns(d); /* a transfer that has just ended makes room for the next batch */
        pthread_mutex_unlock(&delivery.lock);
        if (stopping)
            break;
        wait_until(next);
    }
    pthread_mutex_lock(&delivery.lock);
    for (struct destination *d = delivery.first; d != NULL; d = d->next) {
        d->removed = d->told_to_wait = true; /* the time for delivery is over */
        d->posting = false;
    }
    pthread_mutex_unlock(&delivery.lock);
    sweep();
    if (multi != NULL) {
        curl_multi_cleanup(multi);
        curl_global_cleanup();
        multi = NULL;
    }
    return unused;
}
