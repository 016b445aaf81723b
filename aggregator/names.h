/*
 * Names: strings that are stored once and known by a small number, bounded in number and bytes.
 *
 * Id 0 is what all names past the bounds become ("(other)"). Names are never removed and never move, so while
 * one thread adds, any other may read the ids that a published window mentions: `count` is stored with
 * release after the name, and names_count loads it with acquire.
 *
 * Text from outside is made harmless as it comes in: valid UTF-8, no control characters, at most
 * NAMES_LONGEST bytes.
 */
#ifndef AGGREGATOR_NAMES_H
#define AGGREGATOR_NAMES_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    NAMES_LONGEST = 2048,
    NAMES_CHUNK = 1024, /* names an array of them holds */
    NAMES_CHUNKS = 256,
    NAMES_MOST = NAMES_CHUNK * NAMES_CHUNKS,
};

struct name {
    const char *text; /* zero-terminated */
    uint32_t length;
    uint32_t hash;
};

struct names {
    uint32_t most;  /* ids */
    uint32_t limit; /* no new one is given out from here on, however many there may be; the owner's to set */
    uint64_t most_bytes, bytes;
    uint64_t refused; /* calls that were answered with 0 because a bound was reached */
    _Atomic uint32_t count;
    struct name *chunk[NAMES_CHUNKS];
    uint32_t *slots; /* open addressing: id + 1 */
    uint32_t slot_mask;
    char *arena; /* where the next text goes */
    size_t arena_left;
    void *arenas; /* all of them, to be freed */
};

/** Start with `other` as id 0. At most NAMES_MOST ids, and no other `limit`. 0 or -ENOMEM. */
int names_open(struct names *names, uint32_t most, uint64_t most_bytes, const char *other);

void names_close(struct names *names);

/** The id of a name, added if need be; 0 if it is new and there is no room. One thread only. */
uint32_t names_intern(struct names *names, const char *text, size_t length);

/** Make a text harmless in place (at most NAMES_LONGEST bytes; it never grows). */
void names_make_harmless(char *text);

/** How many ids there are. Any thread. */
static inline uint32_t names_count(const struct names *names)
{
    return atomic_load_explicit(&names->count, memory_order_acquire);
}

/** The text of an id; that of id 0 for an id that is not there. Any thread. */
const char *names_text(const struct names *names, uint32_t id);

#endif
