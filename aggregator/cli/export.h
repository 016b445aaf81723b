/*
 * Writing a report in one of the formats, to a file or to stdout.
 */
#ifndef AGGREGATOR_CLI_EXPORT_H
#define AGGREGATOR_CLI_EXPORT_H

#include <jansson.h>

#include "aggregator/cli/collapsed.h"

/** The names of the formats, NULL at the end. */
extern const char *const export_formats[];

/**
 * Write `report` (with stacks) in `format`, one of the names, to `path` (NULL or "-": stdout). Returns the
 * lines (or the one object) written, 0 if nothing in it has stacks, or -errno with fault_text().
 */
long export_write(const json_t *report, const char *format, enum collapsed_unit unit, const char *path);

#endif
