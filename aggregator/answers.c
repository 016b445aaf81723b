/* What the service says when asked: see answers.h. */
#include "aggregator/answers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <urcu.h>

#include "aggregator/destination/destination.h"
#include "aggregator/encode/budget_json.h"
#include "aggregator/encode/report.h"
#include "aggregator/guests.h"
#include "aggregator/log.h"
#include "aggregator/service.h"
#include "aggregator/succession.h"
#include "shm/clock.h"
#include "shm/fault.h"

enum {
    SYNC_MS = 2000,
    DECISIONS = 20, /* shown by status, of the newest */
};

void answers_thread_begin(void *context)
{
    (void)context;
    rcu_register_thread();
}

void answers_thread_end(void *context)
{
    (void)context;
    rcu_unregister_thread();
}

static char *text_of(json_t *json)
{
    char *text = json != NULL ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    return text;
}

static json_t *error_json(const char *format, const char *what)
{
    return json_pack("{s:o}", "error", json_sprintf(format, what));
}

/* ---- report ------------------------------------------------------------------------------------------ */

static struct report_facts facts_of(const struct pool *pool)
{
    return (struct report_facts){
        .source = pool->source,
        .max_overhead = pool->asked.max_overhead,
        .cap = pool->asked.cap,
        .cycle_ms = POOL_CYCLE_NS / 1000000,
        .max_in_a_cycle = pages_peak(&pool->pages),
        .interval_ns = pool->limits.interval_ns,
        .granularity = pool->limits.granularity,
        .paused = pool->limits.paused,
        .passthrough = pool->limits.passthrough,
    };
}

/* What of a report must come from the drain thread. */
struct cut {
    const char *source; /* wanted; NULL: the only one */
    struct pool *pool;  /* found */
    unsigned found;
    struct report_facts facts;
};

static void cut_and_find(struct service *service, void *context)
{
    struct cut *cut = context;
    service_cut(service);
    for (unsigned i = 0; i < service->pools; i++) {
        struct pool *pool = service->pool[i];
        if (cut->source != NULL && strcmp(cut->source, pool->source) != 0 &&
            strcmp(cut->source, strrchr(pool->path, '/') + 1) != 0)
            continue;
        cut->pool = pool;
        cut->found++;
    }
    if (cut->found == 1)
        cut->facts = facts_of(cut->pool);
}

/* What to ask for to get this pool: its source, or its folder's name ("<uid>-<source>") where that names two.
 */
static const char *asked_by(const struct service *service, unsigned pools, unsigned which)
{
    const struct pool *pool = service->pool[which];
    for (unsigned i = 0; i < pools; i++)
        if (i != which && strcmp(service->pool[i]->source, pool->source) == 0)
            return strrchr(pool->path, '/') + 1;
    return pool->source;
}

static json_t *pools_json(const struct service *service)
{
    json_t *list = json_array();
    unsigned pools = atomic_load_explicit(&service->pools, memory_order_acquire);
    for (unsigned i = 0; i < pools; i++)
        json_array_append_new(list, json_string(asked_by(service, pools, i)));
    return json_pack("{s:o}", "pools", list);
}

static json_t *report_answer(struct service *service, const json_t *request)
{
    struct cut cut = {.source = json_string_value(json_object_get(request, "source"))};
    struct report_options options = {
        .seconds = json_number_value(json_object_get(request, "seconds")),
        .action = json_string_value(json_object_get(request, "action")),
        .limit = REPORT_LIMIT,
        .stacks = json_is_true(json_object_get(request, "stacks")),
    };
    const json_t *limit = json_object_get(request, "limit");
    if (json_is_integer(limit) && json_integer_value(limit) >= 0 && json_integer_value(limit) < 100000)
        options.limit = (uint32_t)json_integer_value(limit);
    if (!service_call(service, cut_and_find, &cut))
        return error_json("the aggregator is too busy to answer%s; try again", "");
    if (cut.found == 0 && cut.source != NULL)
        return error_json("no pool has the source '%s'; `profilomatic status` lists them", cut.source);
    if (cut.found == 0)
        return error_json("no worker has attached%s yet; is profiling switched on in the application?", "");
    if (cut.found > 1)
        return pools_json(service);
    struct window_list *list = windows_acquire(&cut.pool->windows);
    json_t *report = list != NULL ? report_build(&cut.pool->merge, list, &cut.facts, &options) : NULL;
    windows_release(list);
    return report != NULL ? report : error_json("out of memory%s", "");
}

/* ---- status ------------------------------------------------------------------------------------------ */

static json_t *worker_json(const struct worker *worker, uint64_t now)
{
    char python[32];
    uint32_t hex = worker->header.python_hexversion;
    snprintf(python, sizeof python, "%u.%u.%u", hex >> 24, hex >> 16 & 255, hex >> 8 & 255);
    const struct taken_page *page = &worker->taken.page;
    uint64_t ours = page->sampler_cpu_ns + page->hook_cpu_ns;
    uint64_t before = worker->header.created_process_cpu_ns;
    uint64_t used = worker->cpu_ns > before ? worker->cpu_ns - before : 0;
    return json_pack("{s:i,s:s,s:f,s:I,s:I,s:I,s:f,s:f,s:f,s:b,s:b,s:b}", "pid", (int)worker->header.pid,
                     "python", python, "attached_seconds", (double)(now - worker->attached_ns) / 1e9,
                     "samples", (json_int_t)worker->samples, "dropped", (json_int_t)worker->dropped,
                     "admitted", (json_int_t)page->admitted, "sampler_cpu",
                     (double)page->sampler_cpu_ns / 1e9, "hook_cpu", (double)page->hook_cpu_ns / 1e9,
                     "worker_cpu", used > ours ? (double)(used - ours) / 1e9 : 0.0, "alive", !worker->dead,
                     "quarantined", worker->quarantined, "foreign", worker->foreign);
}

static json_t *limits_json(const struct pool *pool)
{
    json_t *json = budget_limits_json(&pool->limits);
    json_object_set_new(json, "max_overhead", json_real(pool->asked.max_overhead));
    json_object_set_new(json, "scope", json_string(pool->process_scope ? "process" : "actions"));
    return json;
}

static json_t *notes_json(const struct pool *pool)
{
    json_t *notes = json_array();
    unsigned refused = requests_refused(&pool->requests);
    if (pool->requests.differ)
        json_array_append_new(notes, json_string("applications ask for different limits: the lowest caps "
                                                 "and the coarser detail hold"));
    if (refused != 0)
        json_array_append_new(notes, json_sprintf("%u request(s) are refused: see the log", refused));
    if (pool->limits.paused)
        json_array_append_new(notes, json_string("profiling is paused: its overhead budget is spent"));
    if (pool->limits.passthrough)
        json_array_append_new(notes, json_string("actions are let through uncounted: counting them alone "
                                                 "passed the overhead budget"));
    if (pool->refused_count != 0)
        json_array_append_new(
            notes, json_sprintf("%u file(s) in rings/ are no segments of this version", pool->refused_count));
    if (pool->checkpoint_failed)
        json_array_append_new(notes, json_string("no checkpoint can be written: see the log"));
    if (pool->merge.types.refused != 0)
        json_array_append_new(notes, json_string("there are more action types than are told apart; the rest "
                                                 "is \"(other)\""));
    return notes;
}

static json_t *destinations_json(const struct pool *pool)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < pool->requests.count; i++)
        if (pool->requests.request[i].kind == REQUEST_DESTINATION) {
            json_t *status = destination_status(pool->requests.request[i].destination);
            if (status != NULL)
                json_array_append_new(list, status);
        }
    return list;
}

/* The whole of what is kept, summed up as a report that tells of actions only what was counted. */
static void add_totals(json_t *json, const struct pool *pool)
{
    static const char *const keys[] = {"overhead", "actions_per_cycle", "dropped", "samples", "window",
                                       "actions"};
    struct report_facts facts = facts_of(pool);
    struct report_options options = {.counts_only = true};
    /* On the drain thread: nobody else replaces the list. */
    json_t *report = pool->windows.published != NULL
                         ? report_build(&pool->merge, pool->windows.published, &facts, &options)
                         : NULL;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        json_object_set(json, keys[i], json_object_get(report, keys[i]));
    json_decref(report);
}

static json_t *pool_json(const struct pool *pool, uint64_t now, bool history)
{
    json_t *workers = json_array();
    for (const struct worker *worker = pool->workers; worker != NULL; worker = worker->next)
        json_array_append_new(workers, worker_json(worker, now));
    json_t *json =
        json_pack("{s:s,s:i,s:o,s:o,s:o,s:o,s:I}", "source", pool->source, "uid", (int)pool->uid, "workers",
                  workers, "limits", limits_json(pool), "destinations", destinations_json(pool), "notes",
                  notes_json(pool), "quarantined", (json_int_t)pool->quarantined);
    json_object_set_new(json, "refused_files", json_integer(pool->refused_count));
    json_object_set_new(json, "refused_requests", json_integer(requests_refused(&pool->requests)));
    json_object_set_new(json, "overhead_10s", json_real(budget_overhead(&pool->budget_state)));
    json_object_set_new(json, "work", json_real(pool->budget_state.work));
    json_object_set_new(json, "checkpoint_bytes", json_integer((json_int_t)pool->checkpoint_bytes));
    json_object_set_new(json, "decisions",
                        budget_decisions_json(&pool->history, 0, history ? HISTORY_DECISIONS : DECISIONS));
    if (history)
        json_object_set_new(json, "history", budget_history_json(&pool->history));
    add_totals(json, pool);
    return json;
}

/* What is asked for, and the answer. */
struct status {
    bool history;
    json_t *json;
};

static void make_status(struct service *service, void *context)
{
    struct status *status = context;
    json_t *pools = json_array();
    service_cut(service);
    uint64_t now = clock_monotonic_ns();
    for (unsigned i = 0; i < service->pools; i++)
        json_array_append_new(pools, pool_json(service->pool[i], now, status->history));
    status->json =
        json_pack("{s:{s:i,s:s,s:f,s:f,s:I},s:o}", "aggregator", "pid", (int)getpid(), "version",
                  SERVICE_VERSION, "uptime_seconds", (double)(now - service->started_ns) / 1e9, "cpu",
                  (double)service->cpu_ns / 1e9, "rings", (json_int_t)service->rings, "pools", pools);
}

static void stop(struct service *service, void *context)
{
    (void)context;
    service->stop = true;
}

static json_t *give_way_answer(struct service *service)
{
    if (!service->options.private)
        return error_json("this is a service itself%s", "");
    log_line("a service asks for %s: giving way", service->directory);
    service_call(service, stop, NULL);
    return json_pack("{s:s}", "kind", "giving way");
}

/* ---- all verbs --------------------------------------------------------------------------------------- */

char *answers_answer(const json_t *request, void *context)
{
    struct service *service = context;
    const char *verb = json_string_value(json_object_get(request, "verb"));
    if (verb != NULL && strcmp(verb, "report") == 0)
        return text_of(report_answer(service, request));
    if (verb != NULL && strcmp(verb, "status") == 0) {
        struct status status = {.history = json_is_true(json_object_get(request, "history"))};
        if (!service_call(service, make_status, &status) || status.json == NULL)
            status.json = error_json("the aggregator is too busy to answer%s; try again", "");
        return text_of(status.json);
    }
    if (verb != NULL && strcmp(verb, SUCCESSION_VERB) == 0)
        return text_of(give_way_answer(service));
    return text_of(error_json("control socket: the verb '%s' is not known; it knows report, status, "
                              "subscribe and sync",
                              verb != NULL ? verb : ""));
}

char *answers_guest(const json_t *request, uid_t uid, void *context)
{
    const struct service *service = context;
    const char *verb = json_string_value(json_object_get(request, "verb"));
    if (verb == NULL || strcmp(verb, "pool") != 0)
        return text_of(error_json("control socket: another user may only ask for a pool%s", ""));
    if (guests_make_pool(service->directory, request, uid) != 0)
        return text_of(error_json("no pool: %s", fault_text()));
    return text_of(json_pack("{s:s}", "kind", "pool"));
}

static void cut_only(struct service *service, void *context)
{
    (void)context;
    service_cut(service);
}

bool answers_sync(void *context)
{
    return service_call(context, cut_only, NULL) && destination_sync(SYNC_MS);
}

/* ---- at the end -------------------------------------------------------------------------------------- */

static uint64_t actions_of(const struct pool *pool)
{
    uint64_t count = 0;
    const struct window_list *list = pool->windows.published;
    for (uint32_t i = 0; list != NULL && i < list->count; i++)
        for (uint32_t t = 0; t < list->window[i]->profile.types; t++)
            count += list->window[i]->profile.type[t].count;
    return count;
}

static int write_text(const char *path, const char *text)
{
    char temporary[DIRECTORY_PATH_MAX + 8];
    if (snprintf(temporary, sizeof temporary, "%s.new", path) >= (int)sizeof temporary)
        return fault(ENAMETOOLONG, "%s", path);
    FILE *file = fopen(temporary, "we");
    if (file == NULL)
        return fault(errno, "cannot write the report %s", temporary);
    bool written = fputs(text, file) >= 0 && fputc('\n', file) != EOF;
    if (fclose(file) != 0 || !written || rename(temporary, path) != 0) {
        int rc = fault(errno, "cannot write the report %s", path);
        unlink(temporary);
        return rc;
    }
    return 0;
}

int answers_final_report(struct service *service, const char *path)
{
    const struct pool *most = NULL;
    for (unsigned i = 0; i < service->pools; i++)
        if (most == NULL || actions_of(service->pool[i]) > actions_of(most))
            most = service->pool[i];
    static const struct window_list nothing;
    struct merge empty;
    struct report_facts facts = {.source = "", .cycle_ms = 1000, .granularity = GRANULARITY_LINE};
    struct report_options options = {.limit = REPORT_LIMIT, .stacks = true};
    json_t *report = NULL;
    if (most != NULL) {
        facts = facts_of(most);
        report =
            report_build(&most->merge, most->windows.published != NULL ? most->windows.published : &nothing,
                         &facts, &options);
    } else if (merge_open(&empty, clock_monotonic_ns(), clock_realtime_ns()) == 0) {
        report = report_build(&empty, &nothing, &facts, &options);
        merge_close(&empty);
    }
    char *text = text_of(report);
    int rc = text != NULL ? write_text(path, text) : fault(ENOMEM, "report");
    if (rc != 0)
        log_line("%s", fault_text());
    free(text);
    return rc;
}
