/* Messages to destinations and subscribers: see deliver.h. */
#include "aggregator/deliver.h"

#include <stdlib.h>
#include <string.h>

#include "aggregator/control.h"
#include "aggregator/destination/destination.h"
#include "aggregator/encode/budget_json.h"
#include "aggregator/encode/classic.h"
#include "aggregator/encode/eliot.h"
#include "shm/testpoint.h"

/* Is the i-th request a destination of this form, and the first one to name it? */
static bool takes(const struct requests *requests, unsigned i, enum destination_form form, bool profiles_only)
{
    const struct request *request = &requests->request[i];
    if (request->kind != REQUEST_DESTINATION || request->form != form ||
        (profiles_only && !request->profiles))
        return false;
    for (unsigned j = 0; j < i; j++)
        if (requests->request[j].kind == REQUEST_DESTINATION &&
            requests->request[j].destination == request->destination)
            return false;
    return true;
}

static bool wanted(const struct pool *pool, enum destination_form form, bool profiles_only)
{
    bool any = false;
    for (unsigned i = 0; i < pool->requests.count && !any; i++)
        any = takes(&pool->requests, i, form, profiles_only);
    return any;
}

/* One line, or several with newlines between them. */
static void put_lines(int destination, const char *lines)
{
    while (lines != NULL) {
        const char *end = strchr(lines, '\n');
        destination_put(destination, lines, end != NULL ? (size_t)(end - lines) : strlen(lines));
        lines = end != NULL ? end + 1 : NULL;
    }
}

static void put_to_all(const struct pool *pool, const char *lines, enum destination_form form,
                       bool profiles_only)
{
    const struct requests *requests = &pool->requests;
    for (unsigned i = 0; i < requests->count && lines != NULL; i++)
        if (takes(requests, i, form, profiles_only)) {
            put_lines(requests->request[i].destination, lines);
            TESTPOINT("destination-handed-over"); /* The receiver sees the line soon; the next life sends it
                                                     again. */
        }
}

void deliver_root(const struct merge *merge, uint32_t root, void *context)
{
    struct pool *pool = context;
    const struct worker *worker = pool_worker(pool, merge->actions.action[root].worker);
    if (worker == NULL)
        return;
    bool subscribed = control_has_subscriber(worker->header.pid);
    if (pool->requests.destinations == 0 && !subscribed)
        return;
    struct origin origin = {
        .source = pool->source,
        .pid = worker->header.pid,
        .real_offset_ns = (int64_t)(worker->header.created_realtime_ns - worker->header.created_monotonic_ns),
    };
    memcpy(origin.segment, worker->header.uuid, sizeof origin.segment);
    char *line =
        subscribed || wanted(pool, DESTINATION_CLASSIC, false) ? classic_action(merge, root, &origin) : NULL;
    put_to_all(pool, line, DESTINATION_CLASSIC, false);
    if (subscribed && line != NULL)
        control_publish(worker->header.pid, line, strlen(line));
    free(line);
    char *lines = wanted(pool, DESTINATION_ELIOT, false) ? eliot_action(merge, root, &origin) : NULL;
    put_to_all(pool, lines, DESTINATION_ELIOT, false);
    free(lines);
}

static char *status_of(const struct pool *pool, const struct window *window, enum destination_form form)
{
    char *classic = budget_message(pool->source, window, pool->asked.max_overhead, &pool->limits,
                                   &pool->history, pool->decisions_told);
    if (form == DESTINATION_CLASSIC || classic == NULL)
        return classic;
    char *lines = eliot_status(classic, window, pool->source);
    free(classic);
    return lines;
}

/* True if anybody wanted it. */
static bool deliver_window(const struct pool *pool, const struct window *window)
{
    bool any = false;
    for (enum destination_form form = 0; form < DESTINATION_FORMS; form++) {
        if (!wanted(pool, form, true))
            continue;
        any = true;
        for (uint32_t i = 0; i < window->profile.types; i++) {
            const struct type_totals *totals = &window->profile.type[i];
            char *lines = form == DESTINATION_CLASSIC
                              ? classic_profile(&pool->merge, window, totals, pool->source)
                              : eliot_profile(&pool->merge, window, totals, pool->source);
            put_to_all(pool, lines, form, true);
            free(lines);
        }
        char *status = status_of(pool, window, form);
        put_to_all(pool, status, form, true);
        free(status);
    }
    return any;
}

void deliver_windows(struct pool *pool)
{
    uint64_t until_ns = pool->told_until_ns;
    for (uint32_t i = 0; i < pool->windows.count; i++) {
        const struct window *window = pool->windows.closed[i];
        if (window->start_ns <= pool->told_until_ns)
            continue;
        pool->dirty |= deliver_window(pool, window); /* the next checkpoint says that it was */
        pool->decisions_told = pool->history.decisions;
        if (window->start_ns > until_ns)
            until_ns = window->start_ns;
    }
    pool->told_until_ns = until_ns;
}
