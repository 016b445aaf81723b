/* Windows as msgpack: see pack.h. */
#include "aggregator/pack.h"

#include <stdlib.h>
#include <string.h>

#include "aggregator/names.h"

enum {
    PACK_DEEPEST = 8, /* arrays in arrays */
};

/* What may stand here: arrays, binaries, strings, unsigned numbers. Anything else is none of ours. Sets the
 * bytes of a head and of the body behind it, and how many objects follow as elements. */
static bool look_at(const uint8_t *p, size_t left, size_t *bytes, uint64_t *elements)
{
    static const uint8_t length_bytes[] = {[0xc4 - 0xc4] = 1, [0xc5 - 0xc4] = 2, [0xc6 - 0xc4] = 4,
                                           [0xcc - 0xc4] = 1, [0xcd - 0xc4] = 2, [0xce - 0xc4] = 4,
                                           [0xcf - 0xc4] = 8, [0xd9 - 0xc4] = 1, [0xda - 0xc4] = 2,
                                           [0xdb - 0xc4] = 4, [0xdc - 0xc4] = 2, [0xdd - 0xc4] = 4};
    *elements = 0;
    *bytes = 1;
    if (p[0] < 0x80)
        return true;
    if ((p[0] & 0xf0) == 0x90) {
        *elements = p[0] & 0x0f;
        return true;
    }
    uint64_t length = 0, body = 0;
    if ((p[0] & 0xe0) == 0xa0) {
        body = p[0] & 0x1f;
    } else {
        size_t n = p[0] >= 0xc4 && p[0] <= 0xdd ? length_bytes[p[0] - 0xc4] : 0;
        if (n == 0 || n >= left)
            return false;
        for (size_t i = 0; i < n; i++)
            length = length << 8 | p[1 + i];
        *bytes += n;
        if (p[0] >= 0xdc)
            *elements = length;
        else if (p[0] < 0xcc || p[0] > 0xcf)
            body = length;
    }
    if (body > left - *bytes)
        return false;
    *bytes += body;
    return *elements <= left - *bytes; /* each takes a byte at least */
}

/* Is it one object, nested no deeper than ours are? */
static bool looks_right(const char *data, size_t size)
{
    uint64_t wanted[PACK_DEEPEST] = {1};
    int depth = 0;
    size_t at = 0;
    while (at < size) {
        size_t bytes;
        uint64_t elements;
        while (depth >= 0 && wanted[depth] == 0)
            depth--;
        if (depth < 0 || !look_at((const uint8_t *)data + at, size - at, &bytes, &elements))
            return false;
        wanted[depth]--;
        at += bytes;
        if (elements != 0) {
            if (++depth == PACK_DEEPEST)
                return false;
            wanted[depth] = elements;
        }
    }
    while (depth >= 0 && wanted[depth] == 0)
        depth--;
    return depth < 0;
}

bool pack_open(struct pack_reader *reader, const char *data, size_t bytes, uint32_t parts)
{
    size_t at = 0;
    msgpack_unpacked_init(&reader->unpacked);
    if (!looks_right(data, bytes) ||
        msgpack_unpack_next(&reader->unpacked, data, bytes, &at) != MSGPACK_UNPACK_SUCCESS || at != bytes)
        return false;
    reader->object = reader->unpacked.data;
    reader->part = reader->object.via.array.ptr;
    return reader->object.type == MSGPACK_OBJECT_ARRAY && reader->object.via.array.size == parts;
}

void pack_close(struct pack_reader *reader)
{
    msgpack_unpacked_destroy(&reader->unpacked);
}

const void *pack_bin(const msgpack_object *object, size_t each, size_t *count)
{
    static const char nothing[1];
    if (object->type != MSGPACK_OBJECT_BIN || object->via.bin.size % each != 0)
        return NULL;
    *count = object->via.bin.size / each;
    return object->via.bin.ptr != NULL ? object->via.bin.ptr : nothing;
}

bool pack_struct(const msgpack_object *object, void *out, size_t bytes)
{
    if (object->type != MSGPACK_OBJECT_BIN || object->via.bin.size != bytes)
        return false;
    memcpy(out, object->via.bin.ptr, bytes);
    return true;
}

void pack_raw(msgpack_packer *packer, const void *data, size_t bytes)
{
    msgpack_pack_bin(packer, bytes);
    if (bytes != 0)
        msgpack_pack_bin_body(packer, data, bytes);
}

static bool type_wanted(const struct type_totals *totals, bool touched_only)
{
    return !touched_only || totals->touched;
}

static bool cell_wanted(const struct profile *profile, uint32_t index, bool touched_only)
{
    return !touched_only || profile_cell_touched(profile, index);
}

void pack_window(msgpack_packer *packer, const struct window *window, bool touched_only)
{
    const struct profile *profile = &window->profile;
    struct window_head head = {
        .start_ns = window->start_ns,
        .end_ns = window->end_ns,
        .start_real_ns = window->start_real_ns,
        .end_real_ns = window->end_real_ns,
        .folded = profile->folded,
        .sums = window->sums,
    };
    size_t entries = 0, types = 0, cells = 0;
    for (uint32_t i = 0; i < profile->types; i++)
        if (type_wanted(&profile->type[i], touched_only)) {
            entries += profile->type[i].histogram.used;
            types++;
        }
    for (uint32_t i = 0; i < profile->cells; i++)
        cells += cell_wanted(profile, i, touched_only);
    uint32_t workers = touched_only && !window->workers_touched ? 0 : window->workers;
    msgpack_pack_array(packer, WINDOW_PARTS);
    pack_raw(packer, &head, sizeof head);
    pack_raw(packer, window->worker, workers * sizeof *window->worker);
    msgpack_pack_bin(packer, types * sizeof *profile->type);
    for (uint32_t i = 0; i < profile->types; i++)
        if (type_wanted(&profile->type[i], touched_only))
            msgpack_pack_bin_body(packer, &profile->type[i], sizeof profile->type[i]);
    msgpack_pack_bin(packer, entries * sizeof(struct histogram_entry));
    for (uint32_t i = 0; i < profile->types; i++) {
        const struct histogram *histogram = &profile->type[i].histogram;
        if (histogram->used != 0 && type_wanted(&profile->type[i], touched_only))
            msgpack_pack_bin_body(packer, histogram->entry, histogram->used * sizeof *histogram->entry);
    }
    msgpack_pack_bin(packer, cells * sizeof *profile->cell);
    for (uint32_t i = 0; i < profile->cells; i++)
        if (cell_wanted(profile, i, touched_only))
            msgpack_pack_bin_body(packer, &profile->cell[i], sizeof profile->cell[i]);
}

/* One type's totals. The pointer that was packed with them means nothing; how many entries it had does. */
static bool unpack_totals(struct profile *profile, const char *from, const char **entry, size_t *entries)
{
    struct type_totals kept;
    memcpy(&kept, from, sizeof kept);
    uint32_t used = kept.histogram.used;
    if (kept.type >= NAMES_MOST)
        return false;
    struct type_totals *totals = profile_type(profile, kept.type);
    if (totals == NULL || used > *entries)
        return false;
    histogram_close(&totals->histogram);
    kept.histogram = totals->histogram;
    *totals = kept;
    for (uint32_t i = 0; i < used; i++) {
        struct histogram_entry e;
        memcpy(&e, *entry, sizeof e);
        *entry += sizeof e;
        if (e.bucket >= HISTOGRAM_BUCKETS || histogram_add(&totals->histogram, e.bucket, e.count) != 0)
            return false;
    }
    *entries -= used;
    return true;
}

static bool unpack_cell(struct profile *profile, const char *from)
{
    struct cell kept;
    memcpy(&kept, from, sizeof kept);
    struct cell *cell = profile_cell(profile, kept.type, kept.stack);
    if (cell == NULL)
        return false;
    *cell = kept;
    return true;
}

bool unpack_into_window(struct window *window, const msgpack_object *object)
{
    if (object->type != MSGPACK_OBJECT_ARRAY || object->via.array.size != WINDOW_PARTS)
        return false;
    const msgpack_object *part = object->via.array.ptr;
    struct window_head head;
    size_t workers = 0, types = 0, entries = 0, cells = 0;
    const char *worker = pack_bin(&part[1], sizeof(uint64_t), &workers);
    const char *type = pack_bin(&part[2], sizeof(struct type_totals), &types);
    const char *entry = pack_bin(&part[3], sizeof(struct histogram_entry), &entries);
    const char *cell = pack_bin(&part[4], sizeof(struct cell), &cells);
    if (!pack_struct(&part[0], &head, sizeof head) || worker == NULL || type == NULL || entry == NULL ||
        cell == NULL)
        return false;
    window->start_ns = head.start_ns;
    window->start_real_ns = head.start_real_ns;
    window->end_ns = head.end_ns;
    window->end_real_ns = head.end_real_ns;
    window->sums = head.sums;
    window->profile.folded = head.folded;
    for (size_t i = 0; i < workers; i++) {
        uint64_t hash;
        memcpy(&hash, worker + i * sizeof hash, sizeof hash);
        window_note_worker(window, hash);
    }
    bool right = true;
    for (size_t i = 0; i < types && right; i++)
        right = unpack_totals(&window->profile, type + i * sizeof(struct type_totals), &entry, &entries);
    for (size_t i = 0; i < cells && right; i++)
        right = unpack_cell(&window->profile, cell + i * sizeof(struct cell));
    return right;
}

struct window *unpack_window(const msgpack_object *object)
{
    struct window *window = window_new(0, 0);
    if (window != NULL && !unpack_into_window(window, object)) {
        window_put(window);
        return NULL;
    }
    return window;
}
