/*
 * Line queue: a queue of newline-terminated lines with a bound in bytes. The oldest lines give way to new
 * ones. Not locked: the caller orders access.
 */
#ifndef AGGREGATOR_DESTINATION_LINE_QUEUE_H
#define AGGREGATOR_DESTINATION_LINE_QUEUE_H

#include <stddef.h>
#include <stdint.h>

struct line_queue {
    char *bytes;
    size_t start, end, capacity; /* [start, end) holds whole lines */
    size_t limit_bytes;
};

/** Bytes queued, newlines included. */
size_t line_queue_bytes(const struct line_queue *queue);

/**
 * Append `line` (`bytes` long, no newline in it). Returns how many lines were dropped to make room: 0 as a
 * rule; the new line itself counts as dropped if it can never fit or memory is short.
 */
uint64_t line_queue_put(struct line_queue *queue, const char *line, size_t bytes);

/**
 * Move whole lines, oldest first, at most `limit_bytes` but at least one, into memory of the caller's own
 * (*out, to be freed). Returns their bytes, 0 if there is nothing or no memory; sets *count to the lines.
 */
size_t line_queue_take(struct line_queue *queue, size_t limit_bytes, char **out, uint64_t *count);

/** Forget all; returns how many lines that were. */
uint64_t line_queue_clear(struct line_queue *queue);

#endif
