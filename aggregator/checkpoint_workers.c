/* Workers as bytes and back: see checkpoint_workers.h. */
#include "aggregator/checkpoint_workers.h"

#include <stdlib.h>
#include <string.h>

enum {
    WORKER_PARTS = 4, /* head, page, rows, blocks */
    PAGE_WORDS = sizeof(struct taken_page) / sizeof(uint64_t),
};

/* Which words of the page follow. */
struct page_head {
    uint64_t mask[(PAGE_WORDS + 63) / 64];
};

/* ---- workers: packing ---------------------------------------------------------------------------------- */

/* Nothing was kept before a whole piece. */
static const struct taken_page *page_before(const struct taken *taken, bool whole)
{
    static const struct taken_page nothing;
    return whole ? &nothing : &taken->page_kept;
}

static void pack_page(msgpack_packer *packer, const struct taken *taken, bool whole)
{
    const uint64_t *now = (const uint64_t *)(const void *)&taken->page;
    const uint64_t *before = (const uint64_t *)(const void *)page_before(taken, whole);
    struct page_head head = {0};
    uint64_t word[PAGE_WORDS];
    uint32_t words = 0;
    for (uint32_t i = 0; i < PAGE_WORDS; i++)
        if (now[i] != before[i]) {
            head.mask[i / 64] |= UINT64_C(1) << (i % 64);
            word[words++] = now[i];
        }
    msgpack_pack_bin(packer, sizeof head + words * sizeof *word);
    msgpack_pack_bin_body(packer, &head, sizeof head);
    if (words != 0)
        msgpack_pack_bin_body(packer, word, words * sizeof *word);
}

static bool row_wanted(const struct taken *taken, uint32_t row, bool whole)
{
    return whole ? taken->row[row].changes != 0 : taken_row_touched(taken, row);
}

static bool block_wanted(const struct taken *taken, uint32_t block, bool whole)
{
    return whole ? taken->block_owner[block] != 0 : taken_block_touched(taken, block);
}

static void pack_rows(msgpack_packer *packer, const struct taken *taken, bool whole)
{
    uint32_t rows = 0, blocks = 0;
    for (uint32_t r = 0; r < taken->rows; r++)
        rows += row_wanted(taken, r, whole);
    for (uint32_t b = 0; b < taken->blocks; b++)
        blocks += block_wanted(taken, b, whole);
    msgpack_pack_bin(packer, rows * sizeof(struct kept_row));
    for (uint32_t r = 0; r < taken->rows; r++) {
        struct kept_row kept = {.row = r, .taken = taken->row[r]};
        if (row_wanted(taken, r, whole))
            msgpack_pack_bin_body(packer, &kept, sizeof kept);
    }
    msgpack_pack_bin(packer, blocks * sizeof(struct kept_block));
    for (uint32_t b = 0; b < taken->blocks; b++) {
        struct kept_block kept = {.block = b, .owner = taken->block_owner[b]};
        memcpy(kept.bucket, taken->block[b], sizeof kept.bucket);
        if (block_wanted(taken, b, whole))
            msgpack_pack_bin_body(packer, &kept, sizeof kept);
    }
}

static void pack_worker(msgpack_packer *packer, const struct worker_head *head, const struct taken *taken,
                        bool whole)
{
    msgpack_pack_array(packer, WORKER_PARTS);
    pack_raw(packer, head, sizeof *head);
    pack_page(packer, taken, whole);
    pack_rows(packer, taken, whole);
}

static bool worker_touched(const struct worker *worker)
{
    const struct worker_kept *kept = &worker->kept;
    const struct taken *taken = &worker->taken;
    bool touched = !kept->known || kept->cpu_ns != worker->cpu_ns ||
                   kept->quarantined != worker->quarantined ||
                   memcmp(kept->position, worker->position, sizeof kept->position) != 0 ||
                   memcmp(&taken->page, &taken->page_kept, sizeof taken->page) != 0;
    for (size_t i = 0; i < sizeof taken->rows_touched / sizeof *taken->rows_touched; i++)
        touched |= taken->rows_touched[i] != 0;
    return touched;
}

void kept_workers_pack(msgpack_packer *packer, const struct pool *pool, bool whole)
{
    uint32_t count = 0;
    for (const struct worker *worker = pool->workers; worker != NULL; worker = worker->next)
        count += whole || worker_touched(worker);
    for (const struct known_worker *known = pool->known; known != NULL; known = known->next)
        count += whole;
    msgpack_pack_array(packer, count);
    for (const struct worker *worker = pool->workers; worker != NULL; worker = worker->next) {
        if (!whole && !worker_touched(worker))
            continue;
        struct worker_head head = {
            .cpu_ns = worker->cpu_ns, .number = worker->number, .quarantined = worker->quarantined};
        memcpy(head.uuid, worker->header.uuid, sizeof head.uuid);
        memcpy(head.position, worker->position, sizeof head.position);
        pack_worker(packer, &head, &worker->taken, whole);
    }
    /* Those whose segment could not be looked at yet. */
    for (const struct known_worker *known = pool->known; whole && known != NULL; known = known->next) {
        struct worker_head head = {
            .cpu_ns = known->cpu_ns, .number = known->number, .quarantined = known->quarantined};
        memcpy(head.uuid, known->uuid, sizeof head.uuid);
        memcpy(head.position, known->position, sizeof head.position);
        pack_worker(packer, &head, &known->taken, whole);
    }
}

/* ---- workers: reading ---------------------------------------------------------------------------------- */

/* Pieces tell of workers in much the same order, so the search begins where the last one ended. */
static struct known_worker *find_known(struct pool *pool, const uint8_t uuid[16])
{
    struct known_worker *from = pool->known_last != NULL ? pool->known_last->next : NULL;
    for (struct known_worker *known = from; known != NULL; known = known->next)
        if (memcmp(known->uuid, uuid, sizeof known->uuid) == 0)
            return known;
    for (struct known_worker *known = pool->known; known != from; known = known->next)
        if (memcmp(known->uuid, uuid, sizeof known->uuid) == 0)
            return known;
    return NULL;
}

static struct known_worker *add_known(struct pool *pool, const uint8_t uuid[16])
{
    struct known_worker *known = calloc(1, sizeof *known);
    if (known == NULL)
        return NULL;
    memcpy(known->uuid, uuid, sizeof known->uuid);
    if (pool->known == NULL)
        pool->known_end = &pool->known;
    *pool->known_end = known;
    pool->known_end = &known->next;
    return known;
}

static bool apply_page(struct taken_page *page, const msgpack_object *object)
{
    uint64_t *word = (uint64_t *)(void *)page;
    size_t bytes, at = sizeof(struct page_head);
    const char *data = pack_bin(object, 1, &bytes);
    struct page_head head;
    if (data == NULL || bytes < sizeof head)
        return false;
    memcpy(&head, data, sizeof head);
    for (uint32_t i = 0; i < PAGE_WORDS; i++) {
        if (!(head.mask[i / 64] >> (i % 64) & 1))
            continue;
        if (bytes - at < sizeof *word)
            return false;
        memcpy(&word[i], data + at, sizeof *word);
        at += sizeof *word;
    }
    return at == bytes;
}

static bool apply_rows(struct taken *taken, const msgpack_object *rows, const msgpack_object *blocks)
{
    size_t row_count = 0, block_count = 0;
    const char *row = pack_bin(rows, sizeof(struct kept_row), &row_count);
    const char *block = pack_bin(blocks, sizeof(struct kept_block), &block_count);
    if (row == NULL || block == NULL)
        return false;
    for (size_t i = 0; i < row_count; i++) {
        struct kept_row kept;
        memcpy(&kept, row + i * sizeof kept, sizeof kept);
        if (kept.row >= COUNTER_TYPES || taken_reserve(taken, kept.row + 1, 0) != 0)
            return false;
        taken->row[kept.row] = kept.taken;
    }
    for (size_t i = 0; i < block_count; i++) {
        struct kept_block kept;
        memcpy(&kept, block + i * sizeof kept, sizeof kept);
        if (kept.block >= HISTOGRAM_BLOCKS || taken_reserve(taken, 0, kept.block + 1) != 0)
            return false;
        taken->block_owner[kept.block] = kept.owner;
        memcpy(taken->block[kept.block], kept.bucket, sizeof kept.bucket);
    }
    return true;
}

static bool apply_worker(struct pool *pool, const msgpack_object *object)
{
    struct worker_head head;
    if (object->type != MSGPACK_OBJECT_ARRAY || object->via.array.size != WORKER_PARTS ||
        !pack_struct(&object->via.array.ptr[0], &head, sizeof head))
        return false;
    const msgpack_object *part = object->via.array.ptr;
    struct known_worker *known = find_known(pool, head.uuid);
    if (known == NULL && (known = add_known(pool, head.uuid)) == NULL)
        return false;
    pool->known_last = known;
    known->number = head.number;
    known->cpu_ns = head.cpu_ns;
    known->quarantined = head.quarantined != 0;
    memcpy(known->position, head.position, sizeof known->position);
    return apply_page(&known->taken.page, &part[1]) && apply_rows(&known->taken, &part[2], &part[3]);
}

bool kept_workers_apply(struct pool *pool, const msgpack_object *list)
{
    for (uint32_t i = 0; i < list->via.array.size; i++)
        if (!apply_worker(pool, &list->via.array.ptr[i]))
            return false;
    return true;
}

void kept_workers_commit(struct pool *pool)
{
    for (struct worker *worker = pool->workers; worker != NULL; worker = worker->next) {
        if (!worker_touched(worker))
            continue;
        worker->kept =
            (struct worker_kept){.known = true, .quarantined = worker->quarantined, .cpu_ns = worker->cpu_ns};
        memcpy(worker->kept.position, worker->position, sizeof worker->kept.position);
        taken_commit(&worker->taken);
    }
}
