/* The header traceparent: see traceparent.h. */
#include "pybind/traceparent.h"

#include <string.h>

enum { TEXT_LENGTH = 55 }; /* of version 00: 2 + 1 + 32 + 1 + 16 + 1 + 2 */

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_hex(const char *text, size_t bytes, uint8_t *out)
{
    for (size_t i = 0; i < bytes; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool is_zero(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

bool traceparent_parse(const char *text, size_t length, struct traceparent *out)
{
    uint8_t version, flags;
    if (length < TEXT_LENGTH || text[2] != '-' || text[35] != '-' || text[52] != '-')
        return false;
    if (!read_hex(text, 1, &version) || version == 0xFF || !read_hex(text + 53, 1, &flags))
        return false;
    if (version == 0 ? length != TEXT_LENGTH : length > TEXT_LENGTH && text[TEXT_LENGTH] != '-')
        return false;
    return read_hex(text + 3, 16, out->trace_id) && read_hex(text + 36, 8, out->parent_id) &&
           !is_zero(out->trace_id, 16) && !is_zero(out->parent_id, 8);
}
