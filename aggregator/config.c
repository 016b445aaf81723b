/* The operator's limits: see config.h. */
#include "aggregator/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "aggregator/budget.h"
#include "aggregator/merge.h"
#include "shm/fault.h"

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        *--end = '\0';
    return text;
}

/* Cut a comment that does not stand in quotes. */
static void cut_comment(char *line)
{
    bool quoted = false;
    for (char *p = line; *p != '\0'; p++) {
        if (*p == '"')
            quoted = !quoted;
        else if (*p == '#' && !quoted) {
            *p = '\0';
            return;
        }
    }
}

/* "text" at *at; moves *at behind it. */
static bool take_string(char **at, char out[CONFIG_TEXT_MOST])
{
    char *p = *at;
    if (*p != '"')
        return false;
    char *end = strchr(p + 1, '"');
    if (end == NULL || end - p - 1 >= CONFIG_TEXT_MOST)
        return false;
    memcpy(out, p + 1, (size_t)(end - p - 1));
    out[end - p - 1] = '\0';
    *at = end + 1;
    return true;
}

static bool take_list(char *value, char list[][CONFIG_TEXT_MOST], unsigned *count)
{
    char *p = value;
    if (*p++ != '[')
        return false;
    for (*count = 0;;) {
        while (isspace((unsigned char)*p))
            p++;
        if (*p == ']')
            return *trim(p + 1) == '\0';
        if (*count == CONFIG_LIST_MOST || !take_string(&p, list[*count]))
            return false;
        (*count)++;
        while (isspace((unsigned char)*p))
            p++;
        if (*p == ',')
            p++;
    }
}

static bool take_overhead(char *value, double *out)
{
    char text[CONFIG_TEXT_MOST], *end;
    if (*value == '"') {
        if (!take_string(&value, text) || *value != '\0')
            return false;
        value = text;
    }
    *out = strtod(value, &end);
    if (end == value)
        return false;
    if (*end == '%') {
        *out /= 100;
        end++;
    }
    return *end == '\0' && *out >= BUDGET_OVERHEAD_LEAST && *out <= BUDGET_OVERHEAD_MOST;
}

static bool take_count(const char *value, uint32_t *out)
{
    char *end;
    errno = 0;
    long n = strtol(value, &end, 10);
    *out = (uint32_t)n;
    return end != value && *end == '\0' && errno == 0 && n >= 0 && n <= 1000000;
}

static bool take_setting(struct config *config, const char *key, char *value)
{
    if (strcmp(key, "max_overhead") == 0)
        return take_overhead(value, &config->max_overhead);
    if (strcmp(key, "max_actions_per_run") == 0)
        return take_count(value, &config->max_actions_per_run);
    if (strcmp(key, "max_action_types") == 0)
        return take_count(value, &config->max_action_types) && config->max_action_types <= MERGE_TYPES_TOLD;
    if (strcmp(key, "allow_paths") == 0)
        return take_list(value, config->path, &config->paths);
    if (strcmp(key, "allow_hosts") == 0)
        return take_list(value, config->host, &config->hosts);
    return false;
}

int config_read(struct config *config, const char *path)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return fault(errno, "cannot read the configuration %s", path);
    struct config fresh = {0};
    char *line = NULL;
    size_t room = 0;
    int rc = 0;
    for (int number = 1; rc == 0 && getline(&line, &room, file) >= 0; number++) {
        cut_comment(line);
        char *text = trim(line), *equals = strchr(text, '=');
        if (*text == '\0')
            continue;
        if (equals == NULL) {
            rc = fault(EINVAL, "%s:%d: expected 'name = value'", path, number);
            break;
        }
        *equals = '\0';
        char *key = trim(text);
        if (!take_setting(&fresh, key, trim(equals + 1)))
            rc = fault(EINVAL, "%s:%d: '%s' is no setting, or its value is not valid", path, number, key);
    }
    free(line);
    fclose(file);
    if (rc == 0)
        *config = fresh;
    return rc;
}

bool config_allows_path(const struct config *config, const char *path)
{
    size_t n = strlen(path);
    if (path[0] != '/' || strstr(path, "/../") != NULL || (n >= 3 && strcmp(path + n - 3, "/..") == 0))
        return false;
    for (unsigned i = 0; i < config->paths; i++) {
        size_t length = strlen(config->path[i]);
        while (length > 1 && config->path[i][length - 1] == '/')
            length--;
        if (length > 0 && strncmp(path, config->path[i], length) == 0 && (path[length] == '/' || length == 1))
            return true;
    }
    return false;
}

bool config_allows_url(const struct config *config, const char *url)
{
    const char *host = strstr(url, "://");
    if (host == NULL)
        return false;
    host += 3;
    size_t length = strcspn(host, "/?#");
    /* "user@host" would let a URL pretend to name another host. */
    if (memchr(host, '@', length) != NULL)
        return false;
    for (unsigned i = 0; i < config->hosts; i++) {
        size_t n = strlen(config->host[i]);
        if (n <= length && strncasecmp(host, config->host[i], n) == 0 && (n == length || host[n] == ':'))
            return true;
    }
    return false;
}
