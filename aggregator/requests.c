/* Reading requests/: see requests.h. */
#include "aggregator/requests.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "aggregator/destination/destination.h"
#include "aggregator/log.h"
#include "aggregator/merge.h"
#include "shm/directory.h"
#include "shm/fault.h"
#include "shm/rates.h"
#include "shm/testpoint.h"

/* What may wait on disk for a server. Bytes are exact in a double. */
#define SPOOL_BYTES_USUAL (64 << 20)
#define SPOOL_BYTES_MOST 1e12
#define SPOOL_AGE_USUAL_S 86400
#define SPOOL_AGE_MOST_S 1e8

static const struct asked defaults = {
    .limits =
        {
            .max_overhead = 0.02,
            .interval_ns = 10000000,
            .granularity = GRANULARITY_LINE,
            .cap = 10,
        },
    .action_types = MERGE_TYPES_TOLD,
};

static const char *text_of(const json_t *json, const char *key)
{
    return json_string_value(json_object_get(json, key));
}

static bool flag_of(const json_t *json, const char *key, bool otherwise)
{
    const json_t *value = json_object_get(json, key);
    return json_is_boolean(value) ? json_boolean_value(value) : otherwise;
}

int request_parse_limits(const json_t *json, struct request *request)
{
    request->asked = defaults;
    struct budget_asked *limits = &request->asked.limits;
    const json_t *value = json_object_get(json, "max_overhead");
    if (json_is_number(value))
        limits->max_overhead = json_number_value(value);
    if (!(limits->max_overhead >= BUDGET_OVERHEAD_LEAST && limits->max_overhead <= BUDGET_OVERHEAD_MOST))
        return fault(EINVAL, "max_overhead must be from %g to %g", BUDGET_OVERHEAD_LEAST,
                     BUDGET_OVERHEAD_MOST);
    value = json_object_get(json, "time_granularity");
    double interval = json_is_number(value) ? json_number_value(value) : 0.01;
    if (!(interval >= 0.0001 && interval <= 10))
        return fault(EINVAL, "time_granularity must be from 0.0001 to 10 s");
    limits->interval_ns = (uint64_t)(interval * 1e9);
    value = json_object_get(json, "max_actions_per_run");
    json_int_t cap = json_is_integer(value) ? json_integer_value(value) : defaults.limits.cap;
    if (cap < 0 || cap > 1000000000)
        return fault(EINVAL, "max_actions_per_run must be 0 or more");
    limits->cap = (uint32_t)cap;
    value = json_object_get(json, "max_action_types");
    json_int_t types = json_is_integer(value) ? json_integer_value(value) : MERGE_TYPES_TOLD;
    if (types < 1 || types > MERGE_TYPES_TOLD)
        return fault(EINVAL, "max_action_types must be from 1 to %d", MERGE_TYPES_TOLD);
    request->asked.action_types = (uint32_t)types;
    const char *granularity = text_of(json, "code_granularity");
    if (granularity != NULL && strcmp(granularity, "file") == 0)
        limits->granularity = GRANULARITY_FILE;
    else if (granularity != NULL && strcmp(granularity, "method") == 0)
        limits->granularity = GRANULARITY_METHOD;
    else if (granularity != NULL && strcmp(granularity, "line") != 0)
        return fault(EINVAL, "code_granularity must be file, method or line");
    const char *scope = text_of(json, "scope");
    request->asked.process_scope = scope != NULL && strcmp(scope, "process") == 0;
    request->kind = REQUEST_LIMITS;
    return 0;
}

static enum destination_gzip gzip_of(const json_t *json)
{
    const json_t *value = json_object_get(json, "gzip");
    return json_is_true(value) ? GZIP_ALWAYS : json_is_false(value) ? GZIP_NEVER : GZIP_AUTO;
}

static double number_of(const json_t *json, const char *key, double most, double otherwise)
{
    const json_t *value = json_object_get(json, key);
    double number = json_is_number(value) ? json_number_value(value) : otherwise;
    return number < 0 ? 0 : number < most ? number : most;
}

static int add_destination(const json_t *json, const char *kind, uid_t uid, const char *source,
                           const struct config *config, struct request *request)
{
    const char *form = text_of(json, "form");
    bool eliot = form != NULL && strcmp(form, "eliot") == 0;
    if (form != NULL && !eliot && strcmp(form, "classic") != 0)
        return fault(EINVAL, "form '%s' is not known here; 'classic' and 'eliot' are", form);
    char pool[DIRECTORY_SOURCE_MAX + 16];
    snprintf(pool, sizeof pool, "%lu-%s", (unsigned long)uid, source);
    struct destination_spec spec = {
        .kind = strcmp(kind, "file") == 0 ? DESTINATION_FILE : DESTINATION_REST,
        .form = eliot ? DESTINATION_ELIOT : DESTINATION_CLASSIC,
        .profiles = flag_of(json, "profiles", false),
        .pool = pool,
        .path = text_of(json, "path"),
        .flush = flag_of(json, "flush", true),
        .no_links = uid != geteuid(),
        .url = text_of(json, "url"),
        .timeout_s = number_of(json, "timeout", 3600, 5),
        .ca_pem = text_of(json, "ca_pem"),
        .verify = flag_of(json, "verify", true),
        .check_hostname = flag_of(json, "check_hostname", true),
        .newest_tls = text_of(json, "tls") != NULL && strcmp(text_of(json, "tls"), "1.3") == 0,
        .certfile = text_of(json, "certfile"),
        .keyfile = text_of(json, "keyfile"),
        .token_file = text_of(json, "token_file"),
        .gzip = gzip_of(json),
        .spool_bytes = (uint64_t)number_of(json, "spool_bytes", SPOOL_BYTES_MOST, SPOOL_BYTES_USUAL),
        .spool_age_s = number_of(json, "spool_age", SPOOL_AGE_MOST_S, SPOOL_AGE_USUAL_S),
    };
    bool file = spec.kind == DESTINATION_FILE;
    if ((file ? spec.path : spec.url) == NULL)
        return fault(EINVAL, "names no %s", file ? "path" : "url");
    /* Another uid must not use our rights: neither to write where it may not, nor to reach what it cannot. */
    if (uid != geteuid()) {
        if (file ? !config_allows_path(config, spec.path) : !config_allows_url(config, spec.url))
            return fault(EPERM, "%s of uid %lu is not under %s", file ? spec.path : spec.url,
                         (unsigned long)uid, file ? "allow_paths" : "allow_hosts");
        spec.certfile = spec.keyfile = spec.token_file = NULL;
        if (spec.spool_bytes > SPOOL_BYTES_USUAL)
            spec.spool_bytes = SPOOL_BYTES_USUAL;
    }
    int id = destination_add(&spec);
    if (id < 0)
        return id;
    request->kind = REQUEST_DESTINATION;
    request->destination = id;
    request->profiles = spec.profiles;
    request->form = spec.form;
    return 0;
}

static int load(const char *path, uid_t uid, json_t **json)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    if (fd < 0)
        return fault(errno, "cannot open it");
    int rc = 0;
    char *text = NULL;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_uid != uid || (st.st_mode & 022) != 0)
        rc = fault(EPERM, "it is not a plain file of uid %lu alone", (unsigned long)uid);
    else if (st.st_size > REQUEST_BYTES_MOST)
        rc = fault(EFBIG, "it is %lld bytes long", (long long)st.st_size);
    else if ((text = malloc((size_t)st.st_size + 1)) == NULL)
        rc = fault(ENOMEM, "reading it");
    else if (pread(fd, text, (size_t)st.st_size, 0) != st.st_size)
        rc = fault(EIO, "cannot read it");
    close(fd);
    json_error_t error;
    if (rc == 0 && (*json = json_loadb(text, (size_t)st.st_size, JSON_REJECT_DUPLICATES, &error)) == NULL)
        rc = fault(EINVAL, "%s", error.text);
    free(text);
    return rc;
}

static int read_one(struct request *request, const char *path, uid_t uid, const char *source,
                    const struct config *config)
{
    json_t *json;
    int rc = load(path, uid, &json);
    if (rc != 0)
        return rc;
    const char *kind = text_of(json, "kind");
    if (kind != NULL && strcmp(kind, "limits") == 0)
        rc = request_parse_limits(json, request);
    else if (kind != NULL && (strcmp(kind, "file") == 0 || strcmp(kind, "rest") == 0))
        rc = add_destination(json, kind, uid, source, config, request);
    else
        rc = fault(EINVAL, "its kind is not known");
    json_decref(json);
    return rc;
}

static struct request *find(struct requests *requests, const char *name)
{
    for (unsigned i = 0; i < requests->count; i++)
        if (strcmp(requests->request[i].name, name) == 0)
            return &requests->request[i];
    return NULL;
}

/* Two files may differ in bytes and still name the same destination. */
static bool used_by_another(const struct requests *requests, const struct request *gone)
{
    for (unsigned i = 0; i < requests->count; i++)
        if (&requests->request[i] != gone && requests->request[i].kind == REQUEST_DESTINATION &&
            requests->request[i].destination == gone->destination)
            return true;
    return false;
}

static bool drop_gone(struct requests *requests)
{
    bool changed = false;
    for (unsigned i = 0; i < requests->count;) {
        struct request *request = &requests->request[i];
        if (request->there) {
            i++;
            continue;
        }
        if (request->kind == REQUEST_DESTINATION && !used_by_another(requests, request))
            destination_remove(request->destination);
        *request = requests->request[--requests->count];
        changed = true;
    }
    return changed;
}

static bool add_new(struct requests *requests, const char *folder, const char *name, uid_t uid,
                    const char *source, const struct config *config)
{
    char path[DIRECTORY_PATH_MAX];
    if (requests->count == REQUESTS_MOST || strlen(name) >= REQUEST_NAME_MOST ||
        directory_join(path, folder, name) != 0)
        return false;
    struct request *request = &requests->request[requests->count++];
    memset(request, 0, sizeof *request);
    strcpy(request->name, name);
    request->there = true;
    int rc = read_one(request, path, uid, source, config);
    if (rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM || rc == -ENOENT) {
        requests->count--;
        requests->again = true;
        return false;
    }
    if (rc == 0)
        return true;
    if (requests_refused(requests) > REQUESTS_REFUSED_MOST) { /* itself among them */
        requests->count--;
        return false;
    }
    request->kind = REQUEST_REFUSED;
    log_line("request %s is refused: %s", path, fault_text());
    return true;
}

unsigned requests_refused(const struct requests *requests)
{
    unsigned refused = 0;
    for (unsigned i = 0; i < requests->count; i++)
        refused += requests->request[i].kind == REQUEST_REFUSED;
    return refused;
}

static bool asks_otherwise(const struct asked *a, const struct asked *b)
{
    return a->limits.max_overhead != b->limits.max_overhead ||
           a->limits.interval_ns != b->limits.interval_ns || a->limits.granularity != b->limits.granularity ||
           a->limits.cap != b->limits.cap || a->action_types != b->action_types ||
           a->process_scope != b->process_scope;
}

static void count_up(struct requests *requests)
{
    const struct request *first = NULL;
    requests->destinations = 0;
    requests->differ = false;
    for (unsigned i = 0; i < requests->count; i++) {
        const struct request *request = &requests->request[i];
        requests->destinations += request->kind == REQUEST_DESTINATION;
        if (request->kind != REQUEST_LIMITS)
            continue;
        if (first == NULL)
            first = request;
        else if (asks_otherwise(&first->asked, &request->asked))
            requests->differ = true;
    }
}

bool requests_scan(struct requests *requests, const char *folder, uid_t uid, const char *source,
                   const struct config *config)
{
    DIR *directory = opendir(folder);
    if (directory == NULL)
        return false;
    bool changed = false;
    requests->again = false;
    for (unsigned i = 0; i < requests->count; i++)
        requests->request[i].there = false;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        size_t length = strlen(entry->d_name);
        if (entry->d_name[0] == '.' || length < 6 || strcmp(entry->d_name + length - 5, ".json") != 0)
            continue;
        struct request *known = find(requests, entry->d_name);
        if (known != NULL)
            known->there = true;
        else
            changed |= add_new(requests, folder, entry->d_name, uid, source, config);
    }
    closedir(directory);
    changed |= drop_gone(requests);
    if (changed)
        count_up(requests);
    return changed;
}

/* What both allow. */
static void lower(struct asked *sum, const struct asked *asked)
{
    struct budget_asked *least = &sum->limits;
    const struct budget_asked *limits = &asked->limits;
    if (limits->max_overhead < least->max_overhead)
        least->max_overhead = limits->max_overhead;
    if (limits->interval_ns > least->interval_ns)
        least->interval_ns = limits->interval_ns;
    if (limits->granularity < least->granularity)
        least->granularity = limits->granularity;
    if (limits->cap != 0 && (least->cap == 0 || limits->cap < least->cap))
        least->cap = limits->cap;
    if (asked->action_types < sum->action_types)
        sum->action_types = asked->action_types;
    sum->process_scope = sum->process_scope && asked->process_scope;
}

struct asked requests_limits(const struct requests *requests, const struct config *config)
{
    struct asked sum = defaults;
    sum.by_nobody = true;
    for (unsigned i = 0; i < requests->count; i++) {
        const struct request *request = &requests->request[i];
        if (request->kind != REQUEST_LIMITS)
            continue;
        if (sum.by_nobody)
            sum = request->asked;
        else
            lower(&sum, &request->asked);
    }
    struct budget_asked *limits = &sum.limits;
    if (config->max_overhead > 0 && config->max_overhead < limits->max_overhead)
        limits->max_overhead = config->max_overhead;
    if (config->max_actions_per_run != 0 && (limits->cap == 0 || config->max_actions_per_run < limits->cap))
        limits->cap = config->max_actions_per_run;
    if (config->max_action_types != 0 && config->max_action_types < sum.action_types)
        sum.action_types = config->max_action_types;
    return sum;
}

static bool set_aside(const char *folder, const char *name, char path[DIRECTORY_PATH_MAX],
                      char aside[DIRECTORY_PATH_MAX])
{
    char hidden[REQUEST_NAME_MOST + 8];
    snprintf(hidden, sizeof hidden, ".%s.left", name);
    return directory_join(path, folder, name) == 0 && directory_join(aside, folder, hidden) == 0 &&
           rename(path, aside) == 0;
}

/* Unless it was written again by now. */
static void put_back(const char *path, const char *aside)
{
    if (link(aside, path) == 0 || errno == EEXIST)
        unlink(aside);
}

void requests_drop(struct requests *requests, const char *folder, bool all, bool (*wanted)(void *context),
                   void *context)
{
    char path[DIRECTORY_PATH_MAX], aside[DIRECTORY_PATH_MAX];
    for (unsigned i = 0; i < requests->count; i++) {
        const struct request *request = &requests->request[i];
        if ((request->kind == REQUEST_DESTINATION && !all && !destination_idle(request->destination)) ||
            !set_aside(folder, request->name, path, aside))
            continue;
        TESTPOINT(
            "request-aside"); /* A worker that looks writes its own again; the next life puts it back. */
        /* A worker has its segment before it looks whether its requests are there. */
        if (!wanted(context)) {
            unlink(aside);
            TESTPOINT(
                "request-dropped"); /* The next life does not know it; a worker that wants it asks anew. */
            continue;
        }
        put_back(path, aside);
        return;
    }
}

void requests_recover(const char *folder)
{
    static const char end[] = ".json.left";
    char path[DIRECTORY_PATH_MAX], aside[DIRECTORY_PATH_MAX];
    DIR *directory = opendir(folder);
    for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;) {
        size_t length = strlen(entry->d_name);
        struct stat st;
        if (entry->d_name[0] != '.' || directory_join(aside, folder, entry->d_name) != 0 ||
            lstat(aside, &st) != 0 || !S_ISREG(st.st_mode))
            continue;
        if (length > sizeof end && strcmp(entry->d_name + length + 1 - sizeof end, end) == 0) {
            entry->d_name[length - strlen(".left")] = '\0';
            if (directory_join(path, folder, entry->d_name + 1) == 0)
                put_back(path, aside);
        } else if (time(NULL) - st.st_mtime > 60) {
            unlink(aside); /* its writer died before it had its name */
        }
    }
    if (directory != NULL)
        closedir(directory);
}

void requests_close(struct requests *requests)
{
    for (unsigned i = 0; i < requests->count; i++)
        requests->request[i].there = false;
    drop_gone(requests);
}
