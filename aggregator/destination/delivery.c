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

enum {
    GATHER_FILE_MS = 1000,
    GATHER_REST_MS = 100,
    ANSWERS_MAX = 12, /* a batch that a server answered with 5xx so often is given up: it may be the cause */
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
    return d->batch.bytes != NULL || line_queue_bytes(&d->queue) != 0;
}

/* When its next attempt is due; UINT64_MAX if nothing waits, or an answer is awaited. */
static uint64_t due_ns(const struct destination *d)
{
    if (d->posting || !has_work(d))
        return UINT64_MAX;
    if (in_hurry(d) && !d->told_to_wait)
        return 0;
    uint64_t gather_ms = d->spec.kind == DESTINATION_REST ? GATHER_REST_MS
                         : d->spec.flush                  ? 0
                                                          : GATHER_FILE_MS;
    size_t enough = d->spec.kind == DESTINATION_REST ? BATCH_BYTES_MAX : GATHER_FILE_BYTES;
    bool full = d->batch.bytes != NULL || line_queue_bytes(&d->queue) >= enough;
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
    if (!delivered)
        snprintf(d->last_error, sizeof d->last_error, "%s", error);
    d->told_to_wait = false;
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
    double wait_s = d->pause_s * (0.5 + (double)random / UINT32_MAX);
    if (wait_s < asked_s)
        wait_s = asked_s;
    d->not_before_ns = clock_monotonic_ns() + (uint64_t)(wait_s * 1e9);
    if (!d->ailing) /* said once, not at each attempt */
        log_line("destination %s: %s; trying again", d->target, error);
    d->ailing = true;

    pthread_mutex_lock(&delivery.lock);
    d->failures++;
    d->hurry_until = 0;
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
    bool answered;
    enum rest_outcome outcome = rest_sink_finish(d->rest, result, error, sizeof error, &asked_s, &answered);
    d->posting = false;
    if (outcome == REST_RETRY && answered && ++d->batch.answers >= ANSWERS_MAX)
        outcome = REST_REFUSED;
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
        uint64_t lost = d->batch.lines + line_queue_clear(&d->queue);
        if (lost != 0)
            log_line("destination %s: removed with %llu message(s) undelivered", d->target,
                     (unsigned long long)lost);
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
    for (struct destination *d = delivery.first; d != NULL; d = d->next) {
        if (due_ns(d) <= now) {
            if (d->batch.bytes == NULL) {
                d->batch.length =
                    line_queue_take(&d->queue, BATCH_BYTES_MAX, &d->batch.bytes, &d->batch.lines);
                d->waiting_since_ns = now;
                name_batch(&d->batch);
            }
            /* Only this thread takes a destination out of the list, so `d` stays good without the lock. */
            pthread_mutex_unlock(&delivery.lock);
            if (d->batch.bytes != NULL)
                attempt(d);
            else
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
