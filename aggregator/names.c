/* Interned strings: see names.h. */
#include "aggregator/names.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "shm/fault.h"

enum {
    ARENA_BYTES = 64 << 10,
};

struct arena {
    struct arena *next;
    char bytes[];
};

static uint32_t hash_of(const char *text, size_t length)
{
    uint64_t h = UINT64_C(0x9e3779b97f4a7c15) ^ length;
    while (length >= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        h = (h ^ word) * UINT64_C(0xff51afd7ed558ccd);
        h ^= h >> 32;
        text += 8;
        length -= 8;
    }
    uint64_t word = 0;
    memcpy(&word, text, length);
    h = (h ^ word) * UINT64_C(0xff51afd7ed558ccd);
    return (uint32_t)(h >> 32) ^ (uint32_t)h;
}

/* Bytes of the UTF-8 character at p (at most `left` bytes there), 0 if it is none. */
static size_t utf8_length(const unsigned char *p, size_t left)
{
    size_t n = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : 0;
    if (p[0] >= 0xf0 && p[0] < 0xf5)
        n = 4;
    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    /* Overlong forms, surrogates, and what lies past the last code point. */
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] >= 0x90))
        return 0;
    return n;
}

static size_t make_harmless(char out[NAMES_LONGEST], const char *text, size_t length)
{
    size_t used = 0;
    for (size_t i = 0; i < length;) {
        const unsigned char *p = (const unsigned char *)text + i;
        size_t n = utf8_length(p, length - i);
        if (used + (n == 0 ? 1 : n) > NAMES_LONGEST)
            break;
        if (n == 0) {
            out[used++] = '?';
            i++;
        } else if (n == 1) {
            out[used++] = p[0] < 0x20 || p[0] == 0x7f ? ' ' : (char)p[0];
            i++;
        } else {
            memcpy(out + used, p, n);
            used += n;
            i += n;
        }
    }
    return used;
}

void names_make_harmless(char *text)
{
    char harmless[NAMES_LONGEST];
    size_t length = make_harmless(harmless, text, strlen(text));
    memcpy(text, harmless, length);
    text[length] = '\0';
}

static struct name *name_at(const struct names *names, uint32_t id)
{
    return &names->chunk[id / NAMES_CHUNK][id % NAMES_CHUNK];
}

static char *store(struct names *names, const char *text, size_t length)
{
    if (names->arena_left < length + 1) {
        struct arena *arena = malloc(sizeof *arena + ARENA_BYTES);
        if (arena == NULL)
            return NULL;
        arena->next = names->arenas;
        names->arenas = arena;
        names->arena = arena->bytes;
        names->arena_left = ARENA_BYTES;
    }
    char *at = names->arena;
    memcpy(at, text, length);
    at[length] = '\0';
    names->arena += length + 1;
    names->arena_left -= length + 1;
    names->bytes += length + 1;
    return at;
}

static bool grow_slots(struct names *names)
{
    uint32_t slots = (names->slot_mask + 1) * 2;
    uint32_t *fresh = calloc(slots, sizeof *fresh);
    if (fresh == NULL)
        return false;
    for (uint32_t id = 0; id < names_count(names); id++) {
        uint32_t at = name_at(names, id)->hash & (slots - 1);
        while (fresh[at] != 0)
            at = (at + 1) & (slots - 1);
        fresh[at] = id + 1;
    }
    free(names->slots);
    names->slots = fresh;
    names->slot_mask = slots - 1;
    return true;
}

static uint32_t add(struct names *names, const char *text, size_t length, uint32_t hash, uint32_t slot)
{
    uint32_t id = names_count(names);
    if (id >= names->most || id >= names->limit || names->bytes + length + 1 > names->most_bytes)
        return 0;
    struct name **chunk = &names->chunk[id / NAMES_CHUNK];
    if (*chunk == NULL && (*chunk = calloc(NAMES_CHUNK, sizeof **chunk)) == NULL)
        return 0;
    char *stored = store(names, text, length);
    if (stored == NULL)
        return 0;
    (*chunk)[id % NAMES_CHUNK] = (struct name){stored, (uint32_t)length, hash};
    names->slots[slot] = id + 1;
    /* Pairs with the acquire in names_count. */
    atomic_store_explicit(&names->count, id + 1, memory_order_release);
    /* Where the larger table finds no memory the old one serves on, until it is full. */
    if ((uint64_t)(id + 1) * 2 > names->slot_mask && !grow_slots(names) && id + 2 > names->slot_mask)
        names->most = id + 1;
    return id;
}

uint32_t names_intern(struct names *names, const char *text, size_t length)
{
    char harmless[NAMES_LONGEST];
    length = make_harmless(harmless, text, length);
    uint32_t hash = hash_of(harmless, length);
    uint32_t slot = hash & names->slot_mask;
    for (; names->slots[slot] != 0; slot = (slot + 1) & names->slot_mask) {
        uint32_t id = names->slots[slot] - 1;
        const struct name *name = name_at(names, id);
        if (name->hash == hash && name->length == length && memcmp(name->text, harmless, length) == 0)
            return id;
    }
    uint32_t id = add(names, harmless, length, hash, slot);
    names->refused += id == 0;
    return id;
}

int names_open(struct names *names, uint32_t most, uint64_t most_bytes, const char *other)
{
    memset(names, 0, sizeof *names);
    names->most = names->limit = most < NAMES_MOST ? most : NAMES_MOST;
    names->most_bytes = most_bytes;
    names->slot_mask = 255;
    names->slots = calloc(names->slot_mask + 1, sizeof *names->slots);
    if (names->slots == NULL)
        return fault(ENOMEM, "names");
    uint64_t refused = names->refused;
    names_intern(names, other, strlen(other));
    names->refused = refused;
    if (names_count(names) == 1)
        return 0;
    names_close(names);
    return fault(ENOMEM, "names");
}

void names_close(struct names *names)
{
    for (struct arena *arena = names->arenas, *next; arena != NULL; arena = next) {
        next = arena->next;
        free(arena);
    }
    for (int i = 0; i < NAMES_CHUNKS; i++)
        free(names->chunk[i]);
    free(names->slots);
    memset(names, 0, sizeof *names);
}

const char *names_text(const struct names *names, uint32_t id)
{
    return name_at(names, id < names_count(names) ? id : 0)->text;
}
