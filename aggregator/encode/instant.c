/* Writing instants: see instant.h. */
#include "aggregator/encode/instant.h"

#include <stdio.h>
#include <time.h>

json_t *instant_json(uint64_t real_ns)
{
    time_t seconds = (time_t)(real_ns / 1000000000u);
    struct tm utc;
    char day[32], text[48];
    gmtime_r(&seconds, &utc);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text, sizeof text, "%s.%06uZ", day, (unsigned)(real_ns % 1000000000u / 1000));
    return json_string(text);
}
