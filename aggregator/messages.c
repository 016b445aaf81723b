/* Logged messages of open actions: see messages.h. */
#include "aggregator/messages.h"

#include <stdlib.h>
#include <string.h>

static size_t bytes_of(uint32_t length)
{
    return sizeof(struct held_message) + length;
}

size_t messages_add(struct messages *messages, const struct record_message *record, const char *text)
{
    struct held_message *held = malloc(bytes_of(record->length));
    if (held == NULL)
        return 0;
    *held = (struct held_message){
        .time_ns = record->time_ns,
        .serial = record->action_serial,
        .length = record->length,
        .depth = record->depth,
        .flags = record->header.flags,
    };
    memcpy(held->text, text, record->length);
    if (messages->last != NULL)
        messages->last->next = held;
    else
        messages->first = held;
    messages->last = held;
    messages->count++;
    return bytes_of(record->length);
}

size_t messages_clear(struct messages *messages)
{
    size_t bytes = 0;
    for (struct held_message *at = messages->first, *next; at != NULL; at = next) {
        next = at->next;
        bytes += bytes_of(at->length);
        free(at);
    }
    *messages = (struct messages){0};
    return bytes;
}
