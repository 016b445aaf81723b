/* W3C Trace Context's request header `traceparent`, level 1 (REC of 2021-11-23, section 3.2). No Python here.
 */
#ifndef PYBIND_TRACEPARENT_H
#define PYBIND_TRACEPARENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct traceparent {
    uint8_t trace_id[16];
    uint8_t parent_id[8]; /* the caller's span */
};

/**
 * Read a header's value: version-traceid-parentid-flags in lower-case hex digits. False, as the specification
 * asks, for version ff, an id of zeros, or anything else that is not so; what later versions append is passed
 * over.
 */
bool traceparent_parse(const char *text, size_t length, struct traceparent *out);

#endif
