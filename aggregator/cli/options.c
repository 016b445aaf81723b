/* Values of options, and what to say when they are wrong: see cli.h. */
#include "aggregator/cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void complain(const char *format, ...)
{
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    fprintf(stderr, "profilomatic: %s\n", line); /* one write: the application's own lines may come between */
}

int usage_error(const char *verb)
{
    fprintf(stderr, "try: profilomatic %s%s--help\n", verb, *verb == '\0' ? "" : " ");
    return CLI_USAGE;
}

int option_error(const char *verb, int refused, char **argv, const struct option *options)
{
    enum {
        NAMES = 32,
    };
    const char *names[NAMES] = {NULL}, *word = argv[optind - 1];
    char shown[3] = {'-', (char)optopt, '\0'}, name[NAMES] = "";
    bool is_long = word[0] == '-' && word[1] == '-';
    if (!is_long)
        word = shown;
    else
        snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    for (unsigned i = 0; i + 1 < NAMES && options[i].name != NULL; i++)
        names[i] = options[i].name;

    const char *near = is_long ? nearest_name(name, names) : NULL;
    if (refused == ':')
        complain("%s: %s wants a value", verb, word);
    else if (is_long && optopt != 0)
        complain("%s: --%s takes no value", verb, name);
    else if (near != NULL)
        complain("%s: there is no option --%s; did you mean --%s?", verb, name, near);
    else
        complain("%s: there is no option %s", verb, word);
    return usage_error(verb);
}

static unsigned least(unsigned a, unsigned b, unsigned c)
{
    return a < b ? (a < c ? a : c) : (b < c ? b : c);
}

/* Edits (Levenshtein) from `a` to `b`, both at most 31 bytes; one row of the table at a time. */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[32], columns = (unsigned)strlen(b);
    for (unsigned j = 0; j <= columns; j++)
        row[j] = j;
    for (unsigned i = 1; a[i - 1] != '\0'; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= columns; j++) {
            unsigned above = row[j];
            row[j] = least(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[columns];
}

const char *nearest_name(const char *word, const char *const *names)
{
    const char *best = NULL;
    unsigned least_edits = 4;
    if (strlen(word) > 31)
        return NULL;
    for (; *names != NULL; names++) {
        unsigned edits = distance(word, *names);
        if (edits < least_edits && edits < strlen(*names)) {
            least_edits = edits;
            best = *names;
        }
    }
    return best;
}

bool parse_ratio(const char *option, const char *text, double least_value, double most, double *out)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (*end == '%') {
        value /= 100;
        end++;
    }
    if (end == text || *end != '\0' || errno != 0 || !(value >= least_value && value <= most)) {
        complain("%s: \"%s\" is no share for it; give %g to %g, as in 0.02 or 2%%", option, text, least_value,
                 most);
        return false;
    }
    *out = value;
    return true;
}

bool parse_seconds(const char *option, const char *text, double least_value, double most, double *out)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || errno != 0 || !(value >= least_value && value <= most)) {
        complain("%s: \"%s\" is no time for it; give seconds, from %g to %g", option, text, least_value,
                 most);
        return false;
    }
    *out = value;
    return true;
}

bool parse_count(const char *option, const char *text, uint32_t most, uint32_t *out)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end != '\0' || *text == '-' || errno != 0 || value > most) {
        complain("%s: \"%s\" is no whole number from 0 to %u", option, text, most);
        return false;
    }
    *out = (uint32_t)value;
    return true;
}

bool parse_choice(const char *option, const char *text, const char *const *names)
{
    char list[256] = "";
    for (const char *const *name = names; *name != NULL; name++) {
        if (strcmp(text, *name) == 0)
            return true;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", name == names ? "" : ", ", *name);
    }
    complain("%s: \"%s\" is not one of: %s", option, text, list);
    return false;
}
