/* Writing instants: see instant.h. */
#include "aggregator/encode/instant.h"

#include <string.h>
#include <time.h>

/* Those of one message lie in few seconds. */
static __thread struct {
    time_t second; /* that `text` is of, if it is not empty */
    char text[INSTANT_BYTES];
    size_t length;
} last;

void instant_text(uint64_t real_ns, char out[INSTANT_BYTES])
{
    enum { FRACTION = sizeof ".000000Z" - 1 };
    time_t second = (time_t)(real_ns / 1000000000u);
    if (last.length == 0 || last.second != second) {
        struct tm utc;
        gmtime_r(&second, &utc);
        last.length = strftime(last.text, sizeof last.text - FRACTION - 1, "%Y-%m-%dT%H:%M:%S", &utc);
        last.second = second;
    }
    memcpy(out, last.text, last.length);
    uint32_t us = (uint32_t)(real_ns % 1000000000u / 1000);
    char *fraction = out + last.length;
    memcpy(fraction, ".000000Z", FRACTION + 1);
    for (int i = 6; i > 0; i--, us /= 10)
        fraction[i] = (char)('0' + us % 10);
}

json_t *instant_json(uint64_t real_ns)
{
    char text[INSTANT_BYTES];
    instant_text(real_ns, text);
    return json_string(text);
}
