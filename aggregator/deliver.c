/* Messages to destinations and subscribers: see deliver.h. */
#include "aggregator/deliver.h"

#include <stdlib.h>
#include <string.h>

#include "aggregator/control.h"
#include "aggregator/destination/destination.h"
#include "aggregator/encode/budget_json.h"
#include "aggregator/encode/classic.h"
#include "shm/testpoint.h"

static void put_to_all(const struct pool *pool, const char *line, bool profiles_only)
{
    const struct requests *requests = &pool->requests;
    size_t bytes = strlen(line);
    for (unsigned i = 0; i < requests->count; i++) {
        const struct request *request = &requests->request[i];
        if (request->kind != REQUEST_DESTINATION || (profiles_only && !request->profiles))
            continue;
        bool put_before = false;
        for (unsigned j = 0; j < i && !put_before; j++)
            put_before = requests->request[j].kind == REQUEST_DESTINATION &&
                         requests->request[j].destination == request->destination;
        if (!put_before) {
            destination_put(request->destination, line, bytes);
            TESTPOINT("destination-handed-over"); /* The receiver sees the line soon; the next life sends it
                                                     again. */
        }
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
    struct classic_origin origin = {
        .source = pool->source,
        .pid = worker->header.pid,
        .real_offset_ns = (int64_t)(worker->header.created_realtime_ns - worker->header.created_monotonic_ns),
    };
    memcpy(origin.segment, worker->header.uuid, sizeof origin.segment);
    char *line = classic_action(merge, root, &origin);
    if (line == NULL)
        return;
    put_to_all(pool, line, false);
    if (subscribed)
        control_publish(worker->header.pid, line, strlen(line));
    free(line);
}

void deliver_window(const struct pool *pool, const struct window *window)
{
    bool wanted = false;
    for (unsigned i = 0; i < pool->requests.count; i++)
        wanted |= pool->requests.request[i].kind == REQUEST_DESTINATION && pool->requests.request[i].profiles;
    for (uint32_t i = 0; wanted && i < window->profile.types; i++) {
        char *line = classic_profile(&pool->merge, window, &window->profile.type[i], pool->source);
        if (line != NULL)
            put_to_all(pool, line, true);
        free(line);
    }
    char *status = wanted ? budget_message(pool->source, window, pool->asked.max_overhead, &pool->limits,
                                           &pool->history, pool->decisions_told)
                          : NULL;
    if (status != NULL)
        put_to_all(pool, status, true);
    free(status);
}
