/* Ids of messages: see identity.h. */
#include "aggregator/encode/identity.h"

#include <stdio.h>

/* FNV-1a, going on from `hash`; the zero at the end counts, so that texts in a row stay apart. */
static uint64_t hash_text(uint64_t hash, const char *text)
{
    for (const char *p = text;; p++) {
        hash = (hash ^ (uint8_t)*p) * UINT64_C(1099511628211);
        if (*p == '\0')
            return hash;
    }
}

static const uint64_t hash_start = UINT64_C(14695981039346656037);

void identity_action(const struct origin *origin, uint64_t serial, char out[IDENTITY_BYTES])
{
    for (int i = 0; i < 16; i++)
        sprintf(out + 2 * i, "%02x", origin->segment[i]);
    snprintf(out + 32, IDENTITY_BYTES - 32, "-%llx", (unsigned long long)serial);
}

void identity_window(const struct window *window, const char *source, const char *name,
                     char out[IDENTITY_BYTES])
{
    uint64_t hash = hash_text(hash_text(hash_start, source), name);
    snprintf(out, IDENTITY_BYTES, "%016llx%016llx", (unsigned long long)window->start_real_ns,
             (unsigned long long)hash);
}

void identity_uuid_text(const uint8_t uuid[16], char out[UUID_TEXT_BYTES])
{
    char *p = out;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *p++ = '-';
        p += sprintf(p, "%02x", uuid[i]);
    }
}

void identity_task(const char *id, char out[UUID_TEXT_BYTES])
{
    uint64_t half[2] = {hash_text(hash_start, id), hash_text(hash_text(hash_start, "task"), id)};
    uint8_t uuid[16];
    for (int i = 0; i < 16; i++) {
        uint64_t mixed = half[i / 8] ^ half[i / 8] >> 31; /* the last bytes move the first ones too */
        uuid[i] = (uint8_t)(mixed >> 8 * (i % 8));
    }
    uuid[6] = (uuid[6] & 0x0F) | 0x80;
    uuid[8] = (uuid[8] & 0x3F) | 0x80;
    identity_uuid_text(uuid, out);
}
