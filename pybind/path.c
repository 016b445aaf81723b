/* Normalised paths: see path.h. */
#include "pybind/path.h"

#include <stdbool.h>
#include <string.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_uuid(const char *s, size_t n)
{
    if (n != 36)
        return false;
    for (size_t i = 0; i < n; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? s[i] != '-' : !is_hex(s[i]))
            return false;
    }
    return true;
}

/* Length of the UTF-8 sequence at s, 0 if it is not a valid one (RFC 3629). */
static size_t utf8_sequence(const unsigned char *s, size_t rest)
{
    size_t n = s[0] < 0x80                   ? 1
               : s[0] >= 0xC2 && s[0] < 0xE0 ? 2
               : s[0] >= 0xE0 && s[0] < 0xF0 ? 3
               : s[0] >= 0xF0 && s[0] < 0xF5 ? 4
                                             : 0;
    if (n == 0 || n > rest)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF0 && s[1] < 0x90) ||
        (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return n;
}

struct out {
    char *text;
    size_t used;
    bool full; /* nothing more, not even what would still fit: the name is cut once */
};

static void put(struct out *out, const char *text, size_t length)
{
    out->full = out->full || out->used + length > PATH_NAME_MAX;
    if (out->full)
        return;
    memcpy(out->text + out->used, text, length);
    out->used += length;
}

static void put_segment(struct out *out, const char *s, size_t n)
{
    size_t digits = 0, hex = 0;
    for (size_t i = 0; i < n; i++) {
        digits += is_digit(s[i]);
        hex += is_hex(s[i]);
    }
    if (n > 0 && digits == n)
        put(out, "<int>", 5);
    else if (is_uuid(s, n))
        put(out, "<uuid>", 6);
    else if (n >= 8 && hex == n && digits > 0)
        put(out, "<hex>", 5);
    else
        for (size_t i = 0; i < n;) {
            size_t run = 0;
            while (i + run < n && is_digit(s[i + run]))
                run++;
            if (run >= 3) {
                put(out, "<int>", 5);
                i += run;
                continue;
            }
            size_t sequence = utf8_sequence((const unsigned char *)s + i, n - i);
            if (sequence == 0 || (unsigned char)s[i] < 0x20 || s[i] == 0x7F)
                put(out, "?", 1);
            else
                put(out, s + i, sequence);
            i += sequence == 0 ? 1 : sequence;
        }
}

size_t path_normalise(const char *path, size_t length, char out[PATH_NAME_MAX])
{
    struct out o = {.text = out};
    size_t at = 0;
    while (at < length) {
        size_t end = at;
        while (end < length && path[end] != '/')
            end++;
        put_segment(&o, path + at, end - at);
        if (end < length)
            put(&o, "/", 1);
        at = end + 1;
    }
    if (o.used == 0)
        put(&o, "/", 1);
    return o.used;
}
