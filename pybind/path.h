/* Paths as names: a bounded set of action types out of request paths. No Python here. */
#ifndef PYBIND_PATH_H
#define PYBIND_PATH_H

#include <stddef.h>

enum { PATH_NAME_MAX = 200 };

/**
 * Write the normalised form of a request path (raw bytes, as WSGI's PATH_INFO carries them) to `out`; returns
 * its length, at most PATH_NAME_MAX. A segment of digits becomes <int>, a UUID <uuid>, a run of at least 8
 * hex digits with a decimal digit in it <hex>; inside other segments a run of 3 or more digits becomes <int>.
 * An empty path is "/". Control characters, and bytes that are no UTF-8, become "?".
 */
size_t path_normalise(const char *path, size_t length, char out[PATH_NAME_MAX]);

#endif
