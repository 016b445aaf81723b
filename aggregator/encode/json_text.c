/* A growing line of JSON: see json_text.h. */
#include "aggregator/encode/json_text.h"

#include <stdlib.h>
#include <string.h>

#include "aggregator/encode/instant.h"

enum {
    ROOM_FIRST = 4096,
    DIGITS_MOST = 32,
};

static bool has_room(struct json_text *json, size_t bytes)
{
    if (json->failed || bytes <= json->room - json->used)
        return !json->failed;
    size_t room = json->room != 0 ? json->room : ROOM_FIRST;
    while (room - json->used < bytes)
        room *= 2;
    char *grown = realloc(json->text, room);
    if (grown == NULL) {
        json->failed = true;
        return false;
    }
    json->text = grown;
    json->room = room;
    return true;
}

static void put(struct json_text *json, const char *bytes, size_t count)
{
    if (!has_room(json, count))
        return;
    memcpy(json->text + json->used, bytes, count);
    json->used += count;
}

void json_text_put(struct json_text *json, const char *plain)
{
    put(json, plain, strlen(plain));
}

/* What RFC 8259 wants escaped. */
static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c != '"' && c != '\\';
}

static void put_escaped(struct json_text *json, unsigned char c)
{
    static const char named[] = "\"\"\\\\\bb\ff\nn\rr\tt"; /* each before its letter */
    static const char digit[] = "0123456789ABCDEF";
    for (const char *n = named; *n != 0; n += 2)
        if (c == (unsigned char)*n) {
            put(json, (char[]){'\\', n[1]}, 2);
            return;
        }
    put(json, (char[]){'\\', 'u', '0', '0', digit[c >> 4], digit[c & 15]}, 6);
}

void json_text_string(struct json_text *json, const char *string)
{
    put(json, "\"", 1);
    while (*string != 0) {
        size_t plain = 0;
        while (is_plain((unsigned char)string[plain]))
            plain++;
        put(json, string, plain);
        string += plain;
        if (*string != 0)
            put_escaped(json, (unsigned char)*string++);
    }
    put(json, "\"", 1);
}

void json_text_seconds(struct json_text *json, int64_t ns)
{
    char text[DIGITS_MOST];
    int at = DIGITS_MOST, decimals = 9;
    uint64_t rest = ns < 0 ? -(uint64_t)ns : (uint64_t)ns;
    for (; decimals > 1 && rest % 10 == 0; decimals--)
        rest /= 10;
    for (; decimals > 0; decimals--, rest /= 10)
        text[--at] = (char)('0' + rest % 10);
    text[--at] = '.';
    do
        text[--at] = (char)('0' + rest % 10);
    while ((rest /= 10) != 0);
    if (ns < 0)
        text[--at] = '-';
    put(json, text + at, (size_t)(DIGITS_MOST - at));
}

void json_text_instant(struct json_text *json, uint64_t real_ns)
{
    char text[INSTANT_BYTES];
    instant_text(real_ns, text);
    put(json, "\"", 1);
    json_text_put(json, text);
    put(json, "\"", 1);
}

static int put_more(const char *bytes, size_t count, void *json)
{
    put(json, bytes, count);
    return 0;
}

void json_text_value(struct json_text *json, json_t *value)
{
    if (value == NULL || json_dump_callback(value, put_more, json, JSON_COMPACT | JSON_ENCODE_ANY) != 0)
        json->failed = true;
    json_decref(value);
}

char *json_text_end(struct json_text *json)
{
    put(json, "", 1);
    if (!json->failed)
        return json->text;
    free(json->text);
    return NULL;
}
