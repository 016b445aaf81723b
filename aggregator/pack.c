/* Windows as msgpack: see pack.h. */
#include "aggregator/pack.h"

#include <stdlib.h>
#include <string.h>

#include "aggregator/names.h"

bool pack_open(struct pack_reader *reader, const char *data, size_t bytes, uint32_t parts)
{
    size_t at = 0;
    msgpack_unpacked_init(&reader->unpacked);
    if (msgpack_unpack_next(&reader->unpacked, data, bytes, &at) != MSGPACK_UNPACK_SUCCESS || at != bytes)
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

void pack_window(msgpack_packer *packer, const struct window *window)
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
    size_t entries = 0;
    for (uint32_t i = 0; i < profile->types; i++)
        entries += profile->type[i].histogram.used;
    msgpack_pack_array(packer, WINDOW_PARTS);
    pack_raw(packer, &head, sizeof head);
    pack_raw(packer, window->worker, window->workers * sizeof *window->worker);
    pack_raw(packer, profile->type, profile->types * sizeof *profile->type);
    msgpack_pack_bin(packer, entries * sizeof(struct histogram_entry));
    for (uint32_t i = 0; i < profile->types; i++) {
        const struct histogram *histogram = &profile->type[i].histogram;
        if (histogram->used != 0)
            msgpack_pack_bin_body(packer, histogram->entry, histogram->used * sizeof *histogram->entry);
    }
    pack_raw(packer, profile->cell, profile->cells * sizeof *profile->cell);
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
    if (totals == NULL || used > *entries || totals->histogram.used != 0)
        return false;
    memset(&kept.histogram, 0, sizeof kept.histogram);
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
    profile_add_sample(profile, kept.type, kept.stack, STATE_CPU, 0, 0, CLASS_NONE, 0);
    struct cell *cell = profile->cells != 0 ? &profile->cell[profile->cells - 1] : NULL;
    if (cell == NULL || cell->type != kept.type || cell->stack != kept.stack)
        return false;
    *cell = kept;
    return true;
}

struct window *unpack_window(const msgpack_object *object)
{
    if (object->type != MSGPACK_OBJECT_ARRAY || object->via.array.size != WINDOW_PARTS)
        return NULL;
    const msgpack_object *part = object->via.array.ptr;
    struct window_head head;
    size_t workers = 0, types = 0, entries = 0, cells = 0;
    const char *worker = pack_bin(&part[1], sizeof(uint64_t), &workers);
    const char *type = pack_bin(&part[2], sizeof(struct type_totals), &types);
    const char *entry = pack_bin(&part[3], sizeof(struct histogram_entry), &entries);
    const char *cell = pack_bin(&part[4], sizeof(struct cell), &cells);
    if (!pack_struct(&part[0], &head, sizeof head) || worker == NULL || type == NULL || entry == NULL ||
        cell == NULL)
        return NULL;
    struct window *window = window_new(head.start_ns, head.start_real_ns);
    if (window == NULL)
        return NULL;
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
    if (!right) {
        window_put(window);
        return NULL;
    }
    return window;
}
