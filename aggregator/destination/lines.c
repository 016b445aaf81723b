/* A bounded queue of lines: see lines.h. */
#include "aggregator/destination/lines.h"

#include <stdlib.h>
#include <string.h>

size_t lines_bytes(const struct lines *lines)
{
    return lines->end - lines->start;
}

static void drop_first(struct lines *lines)
{
    char *first = lines->bytes + lines->start;
    char *newline = memchr(first, '\n', lines_bytes(lines));
    lines->start += (size_t)(newline - first) + 1; /* what is queued always ends with a newline */
}

static int reserve(struct lines *lines, size_t more)
{
    if (lines->start != 0 && (lines->start == lines->end || lines->capacity - lines->end < more)) {
        memmove(lines->bytes, lines->bytes + lines->start, lines_bytes(lines));
        lines->end -= lines->start;
        lines->start = 0;
    }
    if (lines->capacity - lines->end >= more)
        return 1;
    size_t capacity =
        lines->capacity * 2 > lines->end + more ? lines->capacity * 2 : lines->end + more + 1024;
    char *grown = realloc(lines->bytes, capacity);
    if (grown == NULL)
        return 0;
    lines->bytes = grown;
    lines->capacity = capacity;
    return 1;
}

uint64_t lines_put(struct lines *lines, const char *line, size_t bytes)
{
    uint64_t dropped = 0;
    if (bytes >= lines->limit_bytes)
        return 1;
    while (lines_bytes(lines) + bytes + 1 > lines->limit_bytes) {
        drop_first(lines);
        dropped++;
    }
    if (!reserve(lines, bytes + 1))
        return dropped + 1;
    memcpy(lines->bytes + lines->end, line, bytes);
    lines->bytes[lines->end + bytes] = '\n';
    lines->end += bytes + 1;
    return dropped;
}

static uint64_t count_lines(const char *bytes, size_t length)
{
    uint64_t count = 0;
    for (const char *at = bytes, *end = bytes + length; at < end; count++)
        at = (const char *)memchr(at, '\n', (size_t)(end - at)) + 1;
    return count;
}

size_t lines_take(struct lines *lines, size_t limit_bytes, char **out, uint64_t *count)
{
    size_t length = lines_bytes(lines);
    if (length == 0)
        return 0;
    const char *first = lines->bytes + lines->start;
    if (length > limit_bytes) {
        const char *last = memrchr(first, '\n', limit_bytes);
        if (last == NULL)
            last = memchr(first, '\n', length);
        length = (size_t)(last - first) + 1;
    }
    char *taken = malloc(length);
    if (taken == NULL)
        return 0;
    memcpy(taken, first, length);
    *out = taken;
    *count = count_lines(taken, length);
    lines->start += length;
    if (lines->start == lines->end && lines->capacity > limit_bytes) {
        free(lines->bytes); /* a burst must not hold its memory for ever */
        lines->bytes = NULL;
        lines->start = lines->end = lines->capacity = 0;
    }
    return length;
}

uint64_t lines_clear(struct lines *lines)
{
    uint64_t count =
        lines_bytes(lines) == 0 ? 0 : count_lines(lines->bytes + lines->start, lines_bytes(lines));
    free(lines->bytes);
    lines->bytes = NULL;
    lines->start = lines->end = lines->capacity = 0;
    return count;
}
