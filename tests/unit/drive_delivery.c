/*
 * Lets a test in another language drive delivery and the control socket, without the rest of the aggregator.
 *
 * One JSON command a line on stdin, one JSON value a line on stdout:
 *   {"add": {spec}} -> id or {"error"}      {"put": [id, line]} -> null      {"status": id} -> object or null
 *   {"remove": id} -> null                  {"sync": milliseconds} -> true or false
 *   {"secure": milliseconds} -> true or false                             {"reopen": true} -> null
 *   {"listen": path} -> null or {"error"}   {"publish": [pid, line]} -> whether somebody subscribes
 * At the end of stdin all is stopped as the aggregator stops it. The control socket answers every verb with
 * the request itself, and "big" with {"big": "xxx…"} of "bytes" bytes; a sync publishes one message to
 * process 1.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/control.h"
#include "aggregator/destination/destination.h"
#include "shm/fault.h"

static const char *text(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static bool flag(const json_t *object, const char *key, bool otherwise)
{
    const json_t *value = json_object_get(object, key);
    return value == NULL ? otherwise : json_is_true(value);
}

static json_t *error_or(int rc)
{
    return rc < 0 ? json_pack("{s:s}", "error", fault_text()) : json_integer(rc);
}

static json_t *add(const json_t *o)
{
    const char *kind = text(o, "kind");
    struct destination_spec spec = {
        .kind = kind != NULL && strcmp(kind, "rest") == 0 ? DESTINATION_REST : DESTINATION_FILE,
        .profiles = flag(o, "profiles", false),
        .pool = text(o, "pool"),
        .path = text(o, "path"),
        .flush = flag(o, "flush", true),
        .no_links = flag(o, "no_links", false),
        .url = text(o, "url"),
        .timeout_s = json_number_value(json_object_get(o, "timeout")),
        .ca_pem = text(o, "ca_pem"),
        .verify = flag(o, "verify", true),
        .check_hostname = flag(o, "check_hostname", true),
        .certfile = text(o, "certfile"),
        .keyfile = text(o, "keyfile"),
        .token_file = text(o, "token_file"),
        .gzip = json_is_true(json_object_get(o, "gzip"))    ? GZIP_ALWAYS
                : json_is_false(json_object_get(o, "gzip")) ? GZIP_NEVER
                                                            : GZIP_AUTO,
        .spool_bytes = (uint64_t)json_integer_value(json_object_get(o, "spool_bytes")),
        .spool_age_s = json_number_value(json_object_get(o, "spool_age")),
    };
    return error_or(destination_add(&spec));
}

static json_t *put(const json_t *pair)
{
    const char *line = json_string_value(json_array_get(pair, 1));
    destination_put((int)json_integer_value(json_array_get(pair, 0)), line, strlen(line));
    return json_null();
}

static json_t *publish(const json_t *pair)
{
    int32_t pid = (int32_t)json_integer_value(json_array_get(pair, 0));
    const char *line = json_string_value(json_array_get(pair, 1));
    bool heard = control_has_subscriber(pid);
    control_publish(pid, line, strlen(line));
    return json_boolean(heard);
}

static char *answer(const json_t *request, void *context)
{
    (void)context;
    if (strcmp(text(request, "verb"), "big") != 0)
        return json_dumps(request, JSON_COMPACT);
    size_t bytes = (size_t)json_integer_value(json_object_get(request, "bytes"));
    char *reply = malloc(bytes + 16);
    if (reply != NULL) {
        strcpy(reply, "{\"big\":\"");
        memset(reply + 8, 'x', bytes);
        strcpy(reply + 8 + bytes, "\"}");
    }
    return reply;
}

static bool sync_now(void *context)
{
    (void)context;
    control_publish(1, "{\"kind\":\"action\"}", 17);
    return true;
}

static json_t *obey(const json_t *command)
{
    const struct control_handlers handlers = {.answer = answer, .sync = sync_now};
    const json_t *value;
    if ((value = json_object_get(command, "add")) != NULL)
        return add(value);
    if ((value = json_object_get(command, "put")) != NULL)
        return put(value);
    if ((value = json_object_get(command, "status")) != NULL)
        return destination_status((int)json_integer_value(value));
    if ((value = json_object_get(command, "sync")) != NULL)
        return json_boolean(destination_sync((unsigned)json_integer_value(value)));
    if ((value = json_object_get(command, "secure")) != NULL)
        return json_boolean(destinations_secure((unsigned)json_integer_value(value)));
    if (json_object_get(command, "reopen") != NULL) {
        destinations_reopen();
        return json_null();
    }
    if ((value = json_object_get(command, "listen")) != NULL)
        return error_or(control_start(json_string_value(value), &handlers));
    if ((value = json_object_get(command, "publish")) != NULL)
        return publish(value);
    if ((value = json_object_get(command, "remove")) != NULL)
        destination_remove((int)json_integer_value(value));
    return json_null();
}

int main(void)
{
    char *line = NULL;
    size_t room = 0;
    if (destinations_start() != 0)
        return 1;
    while (getline(&line, &room, stdin) > 0) {
        json_t *command = json_loads(line, 0, NULL), *reply = obey(command);
        if (reply == NULL)
            reply = json_null();
        json_dumpf(reply, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
        putchar('\n');
        fflush(stdout);
        json_decref(reply);
        json_decref(command);
    }
    control_stop();
    destinations_stop(2000);
    free(line);
    return 0;
}
