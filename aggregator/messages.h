/*
 * Messages: what the application logged inside a profiled action, in order of arrival, kept with the open
 * action and through the checkpoint. The texts come from a segment: what they hold is looked at only by those
 * who encode them.
 */
#ifndef AGGREGATOR_MESSAGES_H
#define AGGREGATOR_MESSAGES_H

#include <stddef.h>
#include <stdint.h>

#include "shm/record.h"

enum {
    MESSAGES_BYTES_MOST = 16 << 20, /* of all open actions of a pool */
};

struct held_message {
    struct held_message *next;
    uint64_t time_ns;
    uint64_t serial; /* of the innermost action */
    uint32_t length, depth;
    uint32_t flags; /* enum message_flags */
    char text[];
};

struct messages {
    struct held_message *first, *last;
    struct held_message *last_kept; /* up to here they are kept; NULL: none is */
    uint32_t count;
};

/** The first that is not kept, or NULL. */
static inline const struct held_message *messages_first_fresh(const struct messages *messages)
{
    return messages->last_kept != NULL ? messages->last_kept->next : messages->first;
}

/** Append one. Returns the bytes that it takes, 0 without memory. */
size_t messages_add(struct messages *messages, const struct record_message *record, const char *text);

/** Forget all; returns the bytes they took. */
size_t messages_clear(struct messages *messages);

#endif
