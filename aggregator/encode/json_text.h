/*
 * JSON text: a line of JSON as it grows, for the long parts of what is delivered. Messages of profiled
 * actions have hundreds of nested pieces; as a tree of objects first they cost ten times as much.
 *
 * The writer puts commas and brackets itself, as plain text. One user at a time; not for several threads.
 */
#ifndef AGGREGATOR_ENCODE_JSON_TEXT_H
#define AGGREGATOR_ENCODE_JSON_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Zeroed at first. */
struct json_text {
    char *text; /* of `used` bytes, not terminated before json_text_end */
    size_t used, room;
    bool failed; /* there was no memory; nothing more is put */
};

/** As it stands. */
void json_text_put(struct json_text *json, const char *plain);

/** A string: valid UTF-8, quoted and escaped. */
void json_text_string(struct json_text *json, const char *string);

/** Seconds of whole nanoseconds, as a real number: 0.0, 1.25. */
void json_text_seconds(struct json_text *json, int64_t ns);

/** A time of day (instant.h), quoted. */
void json_text_instant(struct json_text *json, uint64_t real_ns);

/** A value, which is let go of; NULL fails. */
void json_text_value(struct json_text *json, json_t *value);

/** The text, for free(); NULL without memory. */
char *json_text_end(struct json_text *json);

#endif
