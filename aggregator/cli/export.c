/* Formats of a saved profile: see export.h. */
#include "aggregator/cli/export.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "aggregator/cli/classic.h"
#include "shm/fault.h"

const char *const export_formats[] = {"json", "collapsed", "classic", NULL};

static long write_json(FILE *out, const json_t *report)
{
    return json_dumpf(report, out, JSON_COMPACT | JSON_REAL_PRECISION(12)) != 0 || putc('\n', out) == EOF
               ? fault(errno, "cannot write")
               : 1;
}

long export_write(const json_t *report, const char *format, enum collapsed_unit unit, const char *path)
{
    bool to_stdout = path == NULL || strcmp(path, "-") == 0;
    FILE *out = to_stdout ? stdout : fopen(path, "we");
    if (out == NULL)
        return fault(errno, "cannot write %s", path);
    long written = strcmp(format, "json") == 0        ? write_json(out, report)
                   : strcmp(format, "collapsed") == 0 ? collapsed_write(out, report, unit)
                                                      : classic_write(out, report);
    int failed = fflush(out) != 0 || ferror(out) ? errno : 0;
    if (!to_stdout && fclose(out) != 0 && failed == 0)
        failed = errno;
    if (failed != 0 && written >= 0)
        written = fault(failed, "cannot write %s", to_stdout ? "to stdout" : path);
    return written;
}
