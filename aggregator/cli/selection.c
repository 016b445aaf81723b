/* Getting the report that is wanted: see selection.h. */
#include "aggregator/cli/selection.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "aggregator/cli/cli.h"
#include "aggregator/cli/client.h"
#include "shm/fault.h"

bool selection_option(struct selection *selection, int option, const char *value)
{
    switch (option) {
    case OPTION_SOURCE:
        selection->source = value;
        return true;
    case OPTION_DIRECTORY:
        selection->directory = value;
        return true;
    case OPTION_LIMIT:
        return parse_count("--limit", value, UINT32_MAX, &selection->limit);
    case 'd':
        return parse_seconds("--duration", value, SELECTION_LEAST_SECONDS, SELECTION_MOST_SECONDS,
                             &selection->seconds);
    case 'a':
        selection->action = value;
        return true;
    default:
        return false; /* none of these */
    }
}

bool selection_file(struct selection *selection, int argc, char **argv)
{
    if (argc > 1) {
        complain("one FILE at a time, not also \"%s\"", argv[1]);
        return false;
    }
    if (argc == 1 && (selection->seconds != 0 || selection->directory != NULL)) {
        complain("--duration and --directory ask a running aggregator; they do not go with a FILE");
        return false;
    }
    selection->file = argc == 1 ? argv[0] : NULL;
    return true;
}

#define SAVED_BY "a report is what `run -o FILE` or `export -F json` saved"

/* The JSON in it, or NULL with fault_text(). `name` is what to call it. */
static json_t *read_json(const char *path, const char *name)
{
    json_error_t error;
    FILE *in = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (in == NULL) {
        fault(errno, "cannot open %s", name);
        return NULL;
    }
    int first = getc(in), failed = ferror(in) ? errno : 0;
    ungetc(first, in);
    json_t *loaded = first == EOF ? NULL : json_loadf(in, 0, &error);
    if (failed != 0)
        fault(failed, "cannot read %s", name);
    else if (first == EOF)
        fault(0, "%s is empty; " SAVED_BY, name);
    else if (loaded == NULL)
        fault(0, "%s is no report: line %d: %s; " SAVED_BY, name, error.line, error.text);
    if (in != stdin)
        fclose(in);
    return loaded;
}

int selection_read_file(const char *path, json_t **report)
{
    const char *name = strcmp(path, "-") == 0 ? "standard input" : path;
    json_t *loaded = read_json(path, name);
    if (loaded == NULL)
        return -EINVAL;
    if (!json_is_array(json_object_get(loaded, "actions")) ||
        !json_is_object(json_object_get(loaded, "window"))) {
        json_decref(loaded);
        fault(0, "%s is no report; " SAVED_BY, name);
        return -EINVAL;
    }
    const char *schema = json_string_value(json_object_get(loaded, "schema"));
    if (schema != NULL && strcmp(schema, "profilomatic/report/1") != 0) {
        fault(0, "%s has the form \"%s\"; this program reads \"profilomatic/report/1\"", name, schema);
        json_decref(loaded);
        return -EINVAL;
    }
    *report = loaded;
    return 0;
}

static int ask(const struct selection *selection, json_t **report)
{
    json_t *request =
        json_pack("{s:s, s:s?, s:o, s:s?, s:i, s:b}", "verb", "report", "source", selection->source,
                  "seconds", selection->seconds > 0 ? json_real(selection->seconds) : json_null(), "action",
                  NULL, "limit", (int)selection->limit, "stacks", (int)selection->stacks);
    int rc = client_ask(selection->directory, request, report);
    json_decref(request);
    return rc;
}

static const char *type_of(const json_t *action)
{
    const char *type = json_string_value(json_object_get(action, "action_type"));
    return type == NULL ? "" : type;
}

size_t selection_filter(json_t *report, const char *action, uint32_t limit)
{
    json_t *actions = json_object_get(report, "actions");
    bool exact = false;
    for (size_t i = 0; action != NULL && i < json_array_size(actions); i++)
        exact = exact || strcmp(type_of(json_array_get(actions, i)), action) == 0;
    for (size_t i = json_array_size(actions); i-- > 0;) {
        json_t *one = json_array_get(actions, i);
        const char *type = type_of(one);
        if (action != NULL && (exact ? strcmp(type, action) != 0 : strstr(type, action) == NULL)) {
            json_array_remove(actions, i);
            continue;
        }
        json_t *lists[] = {json_object_get(one, "hot"), json_object_get(one, "slow_because")};
        for (unsigned l = 0; l < 2; l++)
            while (json_array_size(lists[l]) > limit)
                json_array_remove(lists[l], json_array_size(lists[l]) - 1);
    }
    return json_array_size(actions);
}

/* Several pools and none named: list them. */
static int list_pools(const json_t *pools)
{
    size_t i;
    json_t *pool;
    complain("the aggregator serves several pools; name one with --source:");
    json_array_foreach(pools, i, pool)
    {
        fprintf(stderr, "  %s\n", json_string_value(pool) != NULL ? json_string_value(pool) : "?");
    }
    return CLI_USAGE;
}

int selection_load(const struct selection *selection, json_t **report)
{
    json_t *loaded = NULL;
    int rc =
        selection->file != NULL ? selection_read_file(selection->file, &loaded) : ask(selection, &loaded);
    if (rc != 0) {
        complain("%s", fault_text());
        return CLI_FAILED;
    }
    const json_t *pools = json_object_get(loaded, "pools");
    const char *source = json_string_value(json_object_get(loaded, "source"));
    int status = CLI_OK;
    if (pools == NULL && selection->source != NULL && source != NULL &&
        strcmp(source, selection->source) != 0) {
        complain("this report is of the source \"%s\", not of \"%s\"", source, selection->source);
        json_array_clear(json_object_get(loaded, "actions"));
        status = CLI_NOTHING;
    } else if (pools != NULL) {
        status = list_pools(pools);
    } else if (selection_filter(loaded, selection->action, selection->limit) == 0) {
        if (selection->action != NULL)
            complain("no action of type \"%s\" in this report", selection->action);
        else
            complain("no action has ended in the time this report covers");
        status = CLI_NOTHING;
    }
    if (status == CLI_USAGE)
        json_decref(loaded);
    else
        *report = loaded;
    return status;
}
