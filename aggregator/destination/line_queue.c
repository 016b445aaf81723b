/* A bounded queue of lines: see line_queue.h. */
#include "aggregator/destination/line_queue.h"

#include <stdlib.h>
#include <string.h>

size_t line_queue_bytes(const struct line_queue *queue)
{
    return queue->end - queue->start;
}

static void drop_first(struct line_queue *queue)
{
    char *first = queue->bytes + queue->start;
    char *newline = memchr(first, '\n', line_queue_bytes(queue));
    queue->start += (size_t)(newline - first) + 1; /* what is queued always ends with a newline */
}

static int reserve(struct line_queue *queue, size_t more)
{
    if (queue->start != 0 && (queue->start == queue->end || queue->capacity - queue->end < more)) {
        memmove(queue->bytes, queue->bytes + queue->start, line_queue_bytes(queue));
        queue->end -= queue->start;
        queue->start = 0;
    }
    if (queue->capacity - queue->end >= more)
        return 1;
    size_t capacity =
        queue->capacity * 2 > queue->end + more ? queue->capacity * 2 : queue->end + more + 1024;
    char *grown = realloc(queue->bytes, capacity);
    if (grown == NULL)
        return 0;
    queue->bytes = grown;
    queue->capacity = capacity;
    return 1;
}

uint64_t line_queue_put(struct line_queue *queue, const char *line, size_t bytes)
{
    uint64_t dropped = 0;
    if (bytes >= queue->limit_bytes)
        return 1;
    while (line_queue_bytes(queue) + bytes + 1 > queue->limit_bytes) {
        drop_first(queue);
        dropped++;
    }
    if (!reserve(queue, bytes + 1))
        return dropped + 1;
    memcpy(queue->bytes + queue->end, line, bytes);
    queue->bytes[queue->end + bytes] = '\n';
    queue->end += bytes + 1;
    return dropped;
}

static uint64_t count_lines(const char *bytes, size_t length)
{
    uint64_t count = 0;
    for (const char *at = bytes, *end = bytes + length; at < end; count++)
        at = (const char *)memchr(at, '\n', (size_t)(end - at)) + 1;
    return count;
}

size_t line_queue_take(struct line_queue *queue, size_t limit_bytes, char **out, uint64_t *count)
{
    size_t length = line_queue_bytes(queue);
    if (length == 0)
        return 0;
    const char *first = queue->bytes + queue->start;
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
    queue->start += length;
    if (queue->start == queue->end && queue->capacity > limit_bytes) {
        free(queue->bytes); /* a burst must not hold its memory for ever */
        queue->bytes = NULL;
        queue->start = queue->end = queue->capacity = 0;
    }
    return length;
}

uint64_t line_queue_clear(struct line_queue *queue)
{
    uint64_t count =
        line_queue_bytes(queue) == 0 ? 0 : count_lines(queue->bytes + queue->start, line_queue_bytes(queue));
    free(queue->bytes);
    queue->bytes = NULL;
    queue->start = queue->end = queue->capacity = 0;
    return count;
}
