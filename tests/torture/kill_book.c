/* Ledgers: see kill.h. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/torture/kill.h"

static void add(struct sums *to, const struct sums *from)
{
    to->samples += from->samples;
    to->wall += from->wall;
    to->cpu += from->cpu;
}

/* Closes the nested action for the ledger; if its end was dropped, for the aggregator it never ends. */
static void leave_nested(struct book *book, bool put)
{
    if (put) {
        add(&book->nested, &book->open_nested);
        add(&book->open_root, &book->open_nested); /* they count for what encloses it, too */
        book->ended_nested++;
    } else {
        book->unended++;
    }
    memset(&book->open_nested, 0, sizeof book->open_nested);
    book->nested_is_open = false;
}

static void leave_root(struct book *book, bool put)
{
    if (put) {
        add(&book->root, &book->open_root);
        book->ended_root++;
    } else {
        book->unended++;
    }
    memset(&book->open_root, 0, sizeof book->open_root);
    book->root_is_open = false;
}

void book_apply(struct book *book, const struct op *op, bool put)
{
    struct sums one = {.samples = 1, .wall = op->wall, .cpu = op->cpu};
    book->refused += !put;
    switch ((enum op_kind)op->kind) {
    case OP_NONE:
        break;
    case OP_OUTSIDE:
    case OP_SAMPLE_ROOT:
    case OP_SAMPLE_NESTED:
        if (!put)
            break;
        book->samples++;
        add(op->kind == OP_OUTSIDE       ? &book->outside
            : op->kind == OP_SAMPLE_ROOT ? &book->open_root
                                         : &book->open_nested,
            &one);
        break;
    case OP_BEGIN_ROOT:
        book->root_is_open = put;
        break;
    case OP_BEGIN_NESTED:
        book->nested_is_open = put;
        break;
    case OP_END_NESTED:
        book->latency_nested += put ? op->latency : 0;
        leave_nested(book, put);
        break;
    case OP_END_ROOT:
        book->latency_root += put ? op->latency : 0;
        leave_root(book, put);
        break;
    }
}

void lives_map(struct shared *shared)
{
    uint32_t lives = atomic_load(&shared->lives);
    static uint32_t first; /* those before it have all been looked at */
    for (uint32_t i = first; i < lives && i < LIVES_MOST; i++) {
        struct life *life = &shared->life[i];
        uint32_t stage = atomic_load_explicit(&life->stage, memory_order_acquire);
        if (stage > STAGE_MADE && i == first)
            first++;
        if (stage != STAGE_MADE)
            continue;
        int fd = open(life->path, O_RDONLY | O_CLOEXEC);
        struct stat st;
        if (fd < 0)
            continue; /* its writer was killed, and the aggregator is done with it: there was nothing in it */
        if (fstat(fd, &st) == 0) {
            void *mapped = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
            if (mapped != MAP_FAILED) {
                life->mapped = mapped;
                life->mapped_bytes = (uint64_t)st.st_size;
                atomic_store_explicit(&life->stage, STAGE_MAPPED, memory_order_release);
            }
        }
        close(fd);
    }
}

static uint64_t load(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

static void settle(struct life *life)
{
    const struct segment_header *header = (const void *)life->mapped;
    const struct worker_page *page = (const void *)(life->mapped + SEGMENT_PAGE);
    const struct counters *counters = (const void *)(life->mapped + header->counters.offset);
    const struct op *op = &life->pending;
    life->truth = life->book[atomic_load(&life->current)];
    if (load(&page->lanes[op->lane].tail) != life->truth.tail[op->lane])
        book_apply(&life->truth, op, true);
    else if (load(&page->lanes[op->lane].lost_records) != life->truth.lost[op->lane])
        book_apply(&life->truth, op, false);
    for (int lane = 0; lane < SEGMENT_LANES; lane++) {
        life->truth.tail[lane] = load(&page->lanes[lane].tail);
        life->truth.lost[lane] = load(&page->lanes[lane].lost_records);
    }
    life->truth.unended += life->truth.root_is_open + life->truth.nested_is_open;
    life->counted = load(&counters->row[3].changes);
    life->counted_half = load(&counters->row[3].count);
    life->counted_bucket = 0;
    for (int block = 0; block < HISTOGRAM_BLOCKS; block++) /* no other row counts anything */
        for (int sub = 0; sub < HISTOGRAM_SUB; sub++)
            life->counted_bucket += counters->block[block].bucket[sub];
    life->hooks = load(&page->hooks);
    life->admitted = load(&page->admitted);
    munmap((void *)(uintptr_t)life->mapped, life->mapped_bytes);
    life->mapped = NULL;
}

void lives_settle(struct shared *shared, pid_t pid)
{
    uint32_t lives = atomic_load(&shared->lives);
    for (uint32_t i = 0; i < lives && i < LIVES_MOST; i++) {
        struct life *life = &shared->life[i];
        if (life->pid != pid || atomic_load(&life->stage) == STAGE_FINAL)
            continue;
        if (life->mapped != NULL)
            settle(life);
        atomic_store(&life->stage, STAGE_FINAL);
    }
}
