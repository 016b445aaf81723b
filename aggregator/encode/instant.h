/* Instant: the one way a time of day is written, ISO 8601 in UTC with microseconds. */
#ifndef AGGREGATOR_ENCODE_INSTANT_H
#define AGGREGATOR_ENCODE_INSTANT_H

#include <jansson.h>
#include <stdint.h>

enum { INSTANT_BYTES = 48 };

/** "2026-01-31T12:00:00.000000Z" of nanoseconds since 1970. Any thread. */
void instant_text(uint64_t real_ns, char out[INSTANT_BYTES]);

/** The same as a string; a new reference. */
json_t *instant_json(uint64_t real_ns);

#endif
