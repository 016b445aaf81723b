/*
 * Identity: by what a message is known, so that a receiver can drop what it was told before. What is told
 * again after a restart has the same identity.
 */
#ifndef AGGREGATOR_ENCODE_IDENTITY_H
#define AGGREGATOR_ENCODE_IDENTITY_H

#include <stdint.h>

#include "aggregator/windows.h"

enum {
    IDENTITY_BYTES = 56,
    UUID_TEXT_BYTES = 37,
};

/** Whose an action is. */
struct origin {
    const char *source;
    uint8_t segment[16]; /* of the worker */
    int32_t pid;
    int64_t real_offset_ns; /* CLOCK_REALTIME minus CLOCK_MONOTONIC */
};

/** The id of an action's message. */
void identity_action(const struct origin *origin, uint64_t serial, char out[IDENTITY_BYTES]);

/** The id of what is told of a window under a name. */
void identity_window(const struct window *window, const char *source, const char *name,
                     char out[IDENTITY_BYTES]);

/** A uuid with dashes. */
void identity_uuid_text(const uint8_t uuid[16], char out[UUID_TEXT_BYTES]);

/** The uuid of the task in which a message with this id is told (version 8 of RFC 9562). */
void identity_task(const char *id, char out[UUID_TEXT_BYTES]);

#endif
