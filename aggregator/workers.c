/* Draining a worker's segment: see workers.h. What attaches to it is worker_life.c. */
#include "aggregator/workers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "aggregator/guard.h"
#include "shm/clock.h"
#include "shm/fault.h"
#include "shm/testpoint.h"

/* ---- the mapped pages, under guard ------------------------------------------------------------------- */

/* A private copy of what the worker's page said at one moment, in the order that workers.h promises. */
struct snapshot {
    const struct worker *worker;
    uint32_t state, sampler_tid;
    uint64_t tail[SEGMENT_LANES], defined[SEGMENT_DEFINITIONS];
    struct taken_page page;
};

static uint64_t load(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static void read_page(void *context)
{
    struct snapshot *snapshot = context;
    const struct worker_page *page = snapshot->worker->page;
    struct taken_page *out = &snapshot->page;
    /* Closed is stored last of all, so what is read after it is final. */
    snapshot->state = atomic_load_explicit(&page->state, memory_order_acquire);
    snapshot->tail[LANE_SAMPLER] =
        atomic_load_explicit(&page->lanes[LANE_SAMPLER].tail, memory_order_acquire);
    TESTPOINT("sampler-tail-read"); /* Nobody sees it; a pause here lets samples and their action's end come
                                       between. */
    snapshot->tail[LANE_ACTION] = atomic_load_explicit(&page->lanes[LANE_ACTION].tail, memory_order_acquire);
    for (int i = 0; i < SEGMENT_DEFINITIONS; i++)
        snapshot->defined[i] = atomic_load_explicit(&page->defined[i], memory_order_acquire);
    snapshot->sampler_tid = atomic_load_explicit(&page->sampler_tid, memory_order_relaxed);
    out->process_cpu_ns = load(&page->process_cpu_ns);
    out->sampler_cpu_ns = load(&page->sampler_cpu_ns);
    out->hook_cpu_ns = load(&page->hook_cpu_ns);
    out->hooks = load(&page->hooks);
    out->admitted = load(&page->admitted);
    for (int i = 0; i < DENIALS; i++)
        out->denied[i] = load(&page->denied[i]);
    out->uncounted = load(&page->uncounted);
    out->other = load(&page->other);
    out->unreadable = load(&page->unreadable);
    out->unattributed = load(&page->unattributed);
    out->retries = load(&page->retries);
    out->overflow = load(&page->overflow);
    for (int i = 0; i < SEGMENT_LANES; i++) {
        out->lost_records[i] = load(&page->lanes[i].lost_records);
        out->lost_bytes[i] = load(&page->lanes[i].lost_bytes);
    }
    out->coarse = load(&snapshot->worker->counters->coarse);
    for (int i = 0; i < STRATA; i++)
        out->seen[i] = load(&page->seen[i]);
}

/* Rows that changed since they were taken, with the blocks they use. One at a time: the service has one
 * thread. */
struct changed_rows {
    const struct worker *worker;
    uint32_t count, highest_block;
    uint16_t row[COUNTER_TYPES];
};
static struct counters copied;

static void copy_row(const struct counters *counters, uint32_t r, struct changed_rows *changed)
{
    const struct counter_row *from = &counters->row[r];
    struct counter_row *to = &copied.row[r];
    to->changes = atomic_load_explicit(&from->changes, memory_order_acquire);
    to->count = load(&from->count);
    to->errors = load(&from->errors);
    to->profiled = load(&from->profiled);
    to->latency_sum_ns = load(&from->latency_sum_ns);
    to->latency_max_ns = load(&from->latency_max_ns);
    for (int i = 0; i < DENIALS; i++)
        to->denied[i] = atomic_load_explicit(&from->denied[i], memory_order_relaxed);
    for (int i = 0; i < HISTOGRAM_OCTAVES; i++) {
        uint32_t slot = atomic_load_explicit(&from->octave[i], memory_order_relaxed);
        to->octave[i] = slot;
        if (slot == 0 || slot > HISTOGRAM_BLOCKS)
            continue;
        if (slot > changed->highest_block)
            changed->highest_block = slot;
        for (int sub = 0; sub < HISTOGRAM_SUB; sub++)
            copied.block[slot - 1].bucket[sub] =
                atomic_load_explicit(&counters->block[slot - 1].bucket[sub], memory_order_relaxed);
    }
}

static void read_counters(void *context)
{
    struct changed_rows *changed = context;
    const struct worker *worker = changed->worker;
    const struct counters *counters = worker->counters;
    uint32_t rows = atomic_load_explicit(&counters->rows_used, memory_order_acquire);
    for (uint32_t r = 0; r < rows && r < COUNTER_TYPES; r++) {
        uint64_t changes = atomic_load_explicit(&counters->row[r].changes, memory_order_relaxed);
        /* A row whose name has not been read yet waits for the next round. */
        if (worker->symbols.type[r] == 0 ||
            changes == (r < worker->taken.rows ? worker->taken.row[r].changes : 0))
            continue;
        copy_row(counters, r, changed);
        changed->row[changed->count++] = (uint16_t)r;
    }
}

static void write_heads(void *context)
{
    struct worker *worker = context;
    for (int i = 0; i < SEGMENT_LANES; i++) {
        atomic_store_explicit(&worker->aggregator->lanes[i].head, worker->position[i], memory_order_release);
        TESTPOINT("head-stored"); /* The worker may write over what was committed. */
    }
}

void worker_store_heads(struct worker *worker)
{
    if (worker->quarantined || memcmp(worker->stored, worker->position, sizeof worker->stored) == 0)
        return;
    guard_run(write_heads, worker);
    memcpy(worker->stored, worker->position, sizeof worker->stored);
}

static void read_heads(void *context)
{
    struct worker *worker = context;
    for (int i = 0; i < SEGMENT_LANES; i++)
        worker->position[i] = atomic_load_explicit(&worker->aggregator->lanes[i].head, memory_order_acquire);
}

int worker_begin_at_heads(struct worker *worker)
{
    if (!guard_run(read_heads, worker))
        return fault(EPROTO, "its file was cut");
    memcpy(worker->stored, worker->position, sizeof worker->stored);
    return 0;
}

int worker_catch_up(struct worker *worker)
{
    uint64_t committed[SEGMENT_LANES];
    int ahead = 0;
    memcpy(committed, worker->position, sizeof committed);
    if (worker_begin_at_heads(worker) != 0)
        return -EPROTO;
    for (int i = 0; i < SEGMENT_LANES; i++) {
        if (worker->position[i] > committed[i])
            ahead = 1;
        else
            worker->position[i] = committed[i];
    }
    return ahead;
}

/* ---- draining ---------------------------------------------------------------------------------------- */

/* What a pread goes to. One thread, so one buffer, as large as the largest piece so far. */
static uint8_t *scratch;
static size_t scratch_room;

static int read_piece(const struct worker *worker, uint64_t offset, size_t bytes, size_t at)
{
    if (at + bytes > scratch_room) {
        size_t room = (at + bytes + 65535) & ~(size_t)65535;
        uint8_t *grown = realloc(scratch, room);
        if (grown == NULL)
            return fault(ENOMEM, "reading a segment");
        scratch = grown;
        scratch_room = room;
    }
    if (pread(worker->fd, scratch + at, bytes, (off_t)offset) != (ssize_t)bytes)
        return fault(EPROTO, "its file was cut");
    return 0;
}

static int read_definitions(struct worker *worker, struct merge *merge, int area, uint64_t defined)
{
    const struct segment_area *where = &worker->header.definitions[area];
    uint64_t from = worker->defined[area];
    if (defined == from)
        return 0;
    if (defined < from || defined > where->bytes || defined % 8 != 0)
        return fault(EPROTO, "definition area %d went from %llu to %llu of %llu bytes", area,
                     (unsigned long long)from, (unsigned long long)defined, (unsigned long long)where->bytes);
    size_t bytes = (size_t)(defined - from);
    int rc = read_piece(worker, where->offset + from, bytes, 0);
    if (rc != 0)
        return rc;
    rc = symbols_read(&worker->symbols, merge, area, scratch, bytes);
    worker->defined[area] = defined;
    /* Half of them read: ids could not be counted on from here. */
    return rc == -ENOMEM ? fault(EPROTO, "no memory for its definitions") : rc;
}

static uint32_t begin_bytes(const struct worker *worker)
{
    return worker->header.abi_minor >= SEGMENT_ABI_MINOR_LATE ? sizeof(struct record_begin)
                                                              : offsetof(struct record_begin, late_after_us);
}

static int on_record(struct worker *worker, struct merge *merge, const uint8_t *bytes, uint32_t kind)
{
    union {
        struct record_begin begin;
        struct record_end end;
        struct record_sample sample;
        struct record_message message;
    } r;
    const uint32_t *types = worker->symbols.type;
    if (kind == RECORD_SAMPLE) {
        memcpy(&r.sample, bytes, sizeof r.sample);
        if (r.sample.stack > worker->symbols.nodes || r.sample.state >= SAMPLE_STATES)
            return fault(EPROTO, "a sample of stack %u in state %u", r.sample.stack, r.sample.state);
        uint32_t stack = r.sample.stack == 0 ? 0 : worker->symbols.node[r.sample.stack - 1];
        merge_sample(merge, worker->number, stack, &r.sample);
        worker->samples++;
        return 0;
    }
    if (kind == RECORD_MESSAGE) {
        memcpy(&r.message, bytes, sizeof r.message);
        if (r.message.length > r.message.header.size - sizeof r.message)
            return fault(EPROTO, "a message of %u bytes in a record of %u", r.message.length,
                         r.message.header.size);
        if ((r.message.header.flags & ~(unsigned)MESSAGE_FLAGS) != 0)
            return 0; /* what a newer worker means by it is not for the call graph to show as a log message */
        merge_message(merge, worker->number, &r.message, (const char *)bytes + sizeof r.message);
        return 0;
    }
    memset(&r, 0, sizeof r);
    memcpy(&r, bytes, kind == RECORD_BEGIN ? begin_bytes(worker) : sizeof r.end);
    uint32_t type = kind == RECORD_BEGIN ? r.begin.type : r.end.type;
    if (type >= COUNTER_TYPES || types[type] == 0)
        return fault(EPROTO, "an action of type %u, which is not defined", type);
    if (kind == RECORD_BEGIN)
        return merge_begin(merge, worker->number, types[type] - 1, &r.begin);
    merge_end(merge, worker->number, types[type] - 1, &r.end);
    return 0;
}

/* Parse `bytes` bytes of a lane from `position` on; they stand in the scratch. */
static int parse(struct worker *worker, struct merge *merge, int lane, size_t bytes)
{
    const uint32_t size_of[] = {
        [RECORD_SAMPLE] = sizeof(struct record_sample),
        [RECORD_BEGIN] = begin_bytes(worker),
        [RECORD_END] = sizeof(struct record_end),
        [RECORD_MESSAGE] = sizeof(struct record_message), /* at least */
    };
    uint64_t lane_bytes = worker->header.lanes[lane].bytes;
    for (size_t at = 0; at < bytes;) {
        struct record_header header;
        memcpy(&header, scratch + at, sizeof header);
        uint64_t rest = lane_bytes - ((worker->position[lane] + at) & (lane_bytes - 1));
        if (header.size < sizeof header || header.size % 8 != 0 || header.size > bytes - at ||
            header.size > rest)
            return fault(EPROTO, "a record of %u bytes in lane %d", header.size, lane);
        if (header.kind == RECORD_PADDING) {
            if (header.size != rest)
                return fault(EPROTO, "padding of %u bytes in lane %d", header.size, lane);
        } else if (header.kind >= sizeof size_of / sizeof *size_of || header.size < size_of[header.kind] ||
                   (header.kind != RECORD_MESSAGE && header.size != size_of[header.kind]) ||
                   header.size > lane_longest_record(lane_bytes) ||
                   (header.kind == RECORD_SAMPLE) != (lane == LANE_SAMPLER)) {
            return fault(EPROTO, "a record of kind %u, %u bytes, in lane %d", header.kind, header.size, lane);
        } else {
            int rc = on_record(worker, merge, scratch + at, header.kind);
            if (rc != 0)
                return rc;
        }
        at += header.size;
    }
    return 0;
}

static int drain_lane(struct worker *worker, struct merge *merge, int lane, uint64_t tail)
{
    const struct segment_area *area = &worker->header.lanes[lane];
    uint64_t from = worker->position[lane];
    if (tail == from)
        return 0;
    if (tail < from || tail - from > area->bytes || tail % 8 != 0 || from % 8 != 0)
        return fault(EPROTO, "lane %d went from %llu to %llu with %llu bytes", lane, (unsigned long long)from,
                     (unsigned long long)tail, (unsigned long long)area->bytes);
    double fill = (double)(tail - worker->stored[lane]) / (double)area->bytes;
    if (fill > worker->fill)
        worker->fill = fill;
    size_t bytes = (size_t)(tail - from);
    uint64_t offset = from & (area->bytes - 1);
    size_t first = area->bytes - offset < bytes ? (size_t)(area->bytes - offset) : bytes;
    int rc = read_piece(worker, area->offset + offset, first, 0);
    if (rc == 0 && first < bytes)
        rc = read_piece(worker, area->offset, bytes - first, first);
    if (rc != 0)
        return rc;
    rc = parse(worker, merge, lane, bytes);
    worker->position[lane] = tail;
    return rc != 0 ? rc : (int)(bytes / 8);
}

static int take_page(struct worker *worker, struct window_sums *sums, const struct taken_page *now,
                     uint64_t seen[STRATA])
{
    struct taken_page *last = &worker->taken.page;
    int rc = 0;
    sums->sampler_cpu_ns += taken_word(&last->sampler_cpu_ns, now->sampler_cpu_ns, &rc);
    sums->hook_cpu_ns += taken_word(&last->hook_cpu_ns, now->hook_cpu_ns, &rc);
    sums->hooks += taken_word(&last->hooks, now->hooks, &rc);
    sums->admitted += taken_word(&last->admitted, now->admitted, &rc);
    for (int i = 0; i < DENIALS; i++)
        sums->denied[i] += taken_word(&last->denied[i], now->denied[i], &rc);
    sums->uncounted += taken_word(&last->uncounted, now->uncounted, &rc);
    sums->other += taken_word(&last->other, now->other, &rc);
    sums->unreadable += taken_word(&last->unreadable, now->unreadable, &rc);
    sums->unattributed += taken_word(&last->unattributed, now->unattributed, &rc);
    sums->retries += taken_word(&last->retries, now->retries, &rc);
    sums->overflow += taken_word(&last->overflow, now->overflow, &rc);
    for (int i = 0; i < SEGMENT_LANES; i++) {
        uint64_t lost = taken_word(&last->lost_records[i], now->lost_records[i], &rc);
        sums->dropped += lost;
        worker->dropped += lost;
        sums->dropped_bytes += taken_word(&last->lost_bytes[i], now->lost_bytes[i], &rc);
    }
    sums->coarse += taken_word(&last->coarse, now->coarse, &rc);
    for (int i = 0; i < STRATA; i++) {
        uint64_t begun = taken_word(&last->seen[i], now->seen[i], &rc);
        if (seen != NULL)
            seen[i] += begun;
    }
    last->process_cpu_ns = now->process_cpu_ns;
    return rc;
}

static int take_rows(struct worker *worker, struct merge *merge)
{
    struct changed_rows changed = {.worker = worker};
    if (!guard_run(read_counters, &changed))
        return fault(EPROTO, "its file was cut");
    if (changed.count == 0)
        return 0;
    int rc =
        taken_reserve(&worker->taken, (uint32_t)changed.row[changed.count - 1] + 1, changed.highest_block);
    for (uint32_t i = 0; i < changed.count && rc == 0; i++) {
        uint32_t row = changed.row[i];
        rc = taken_row(&worker->taken, merge, row, worker->symbols.type[row] - 1, &copied.row[row],
                       copied.block);
    }
    return rc != 0 ? rc : (int)changed.count;
}

int worker_drain(struct worker *worker, struct merge *merge, uint64_t seen[STRATA])
{
    struct snapshot snapshot = {.worker = worker};
    worker->fill = 0;
    if (!guard_run(read_page, &snapshot))
        return fault(EPROTO, "its file was cut");
    worker->closed = snapshot.state != SEGMENT_ACTIVE;
    worker->sampler_tid = snapshot.sampler_tid;
    int rc = 0, moved = 0;
    for (int area = 0; area < SEGMENT_DEFINITIONS && rc >= 0; area++)
        rc = read_definitions(worker, merge, area, snapshot.defined[area]);
    /* The action lane first: its begins come before the samples that need them. */
    if (rc >= 0 && (rc = drain_lane(worker, merge, LANE_ACTION, snapshot.tail[LANE_ACTION])) > 0)
        moved += rc;
    if (rc >= 0 && (rc = drain_lane(worker, merge, LANE_SAMPLER, snapshot.tail[LANE_SAMPLER])) > 0)
        moved += rc;
    if (rc >= 0 && (rc = take_rows(worker, merge)) > 0)
        moved += rc;
    bool strata = worker->header.abi_minor >= SEGMENT_ABI_MINOR_STRATA;
    if (rc >= 0)
        rc = take_page(worker, &merge->open->sums, &snapshot.page, strata ? seen : NULL);
    if (moved != 0) {
        worker->moved_ns = clock_monotonic_ns();
        window_note_worker(merge->open, worker->hash);
    }
    return rc < 0 ? rc : moved;
}
