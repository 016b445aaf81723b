/* One gather, and the prediction behind it: see snapshot.h. */
#include "runtime/cpython/snapshot.h"

#include <string.h>

#include "runtime/tick_path.h"

#if !HEAP_FRAMES

enum {
    SLACK = 512,               /* bytes gathered above the top of the data stack that was seen last */
    CHUNK_MOST = 64 << 10,     /* gathered of a chunk; frames beyond (huge ones) are gathered singly */
    CHUNK_MOST_EVER = 1 << 28, /* no chunk is larger */
    IDLE_MOST = 16,            /* reads after which a single frame is not gathered any more */
    CHAIN_MOST = 4096,         /* frames followed when one is seen for the first time */
    EARLY_FRAMES = 8,          /* single frames next to the leaf, gathered before the data stack */
    TSTATE_BYTES = TSTATE_END - TSTATE_FIRST,
    LEAST_ADDRESS = 4096,
/* What is first wanted of the thread state is copied in one piece: each piece more would make the data
 * stack's younger than the mark. */
#if LEAF_THROUGH_CFRAME
    MARKS_AT = offsetof(PyThreadState, cframe),
    MARKS_BYTES = offsetof(PyThreadState, datastack_top) + sizeof(uintptr_t) - MARKS_AT,
#else
    MARKS_AT = offsetof(PyThreadState, current_frame),
    MARKS_BYTES = offsetof(PyThreadState, context) + sizeof(uintptr_t) - MARKS_AT,
#endif
};
_Static_assert(offsetof(PyThreadState, context) > (size_t)MARKS_AT &&
                   offsetof(PyThreadState, context) < (size_t)MARKS_AT + MARKS_BYTES,
               "the context is among them");

/** A word of that piece. */
#define MARKS_WORD(copied, field) word_at((copied) + (offsetof(PyThreadState, field) - MARKS_AT))

/* The pieces of a gather that is being put together, and where each will stand. */
struct plan {
    int count;
    uint32_t bytes;
    const uint8_t *next;
    struct iovec pieces[2 + READER_CFRAMES + READER_CHUNKS + READER_OFF_CHUNK + 1];
};

static const uint8_t *name(struct plan *plan, uintptr_t address, uint32_t bytes)
{
    const uint8_t *at = plan->next;
    plan->pieces[plan->count++] = (struct iovec){(void *)address, bytes};
    plan->bytes += bytes;
    plan->next += bytes;
    return at;
}

static bool is_thread(const struct reader_thread *thread, const uint8_t *tstate)
{
    return TSTATE_WORD(tstate, id) == thread->tstate_id &&
           TSTATE_WORD(tstate, TSTATE_NATIVE_ID) == thread->tstate_native_id;
}

static uint32_t chunk_part(uint64_t bytes, uint64_t size)
{
    if (bytes > size)
        bytes = size;
    if (bytes > CHUNK_MOST)
        bytes = CHUNK_MOST;
    return bytes < CHUNK_HEAD ? CHUNK_HEAD : (uint32_t)(bytes & ~UINT64_C(7));
}

/* Read the list of chunks anew, newest first, and keep it root first. */
static bool list_chunks(struct copy *copy, const struct reader_thread *thread, struct reader_prediction *p)
{
    uint8_t tstate[TSTATE_BYTES] __attribute__((aligned(8)));
    if (!copy_piece(copy, thread->tstate + TSTATE_FIRST, tstate, sizeof tstate) || !is_thread(thread, tstate))
        return false;
    uintptr_t at = TSTATE_WORD(tstate, datastack_chunk), top = TSTATE_WORD(tstate, datastack_top);
    int n = 0;
    while (at != 0 && n < READER_CHUNKS) {
        _PyStackChunk head;
        if (at % sizeof(void *) != 0 || !copy_piece(copy, at, &head, CHUNK_HEAD))
            break;
        uint64_t used =
            n == 0 ? (uint64_t)(top - at) + SLACK : CHUNK_HEAD + (uint64_t)head.top * sizeof(void *);
        p->chunk[n] = at;
        p->chunk_used[n++] = chunk_part(used, head.size);
        at = (uintptr_t)head.previous;
    }
    p->cut = at != 0;
    p->chunks = n;
    for (int i = 0, j = n - 1; i < j; i++, j--) {
        uintptr_t chunk = p->chunk[i];
        uint32_t used = p->chunk_used[i];
        p->chunk[i] = p->chunk[j], p->chunk_used[i] = p->chunk_used[j];
        p->chunk[j] = chunk, p->chunk_used[j] = used;
    }
    return true;
}

/* Frames off the data stack are kept leaf first: what changes fastest is gathered soonest after the leaf. */
static void insert_frame(struct reader_prediction *p, int at, uintptr_t address)
{
    if (p->frames == READER_OFF_CHUNK)
        p->frames--;
    if (at > p->frames)
        at = p->frames;
    memmove(p->frame + at + 1, p->frame + at, sizeof *p->frame * (size_t)(p->frames - at));
    memmove(p->frame_idle + at + 1, p->frame_idle + at, (size_t)(p->frames - at));
    p->frame[at] = address;
    p->frame_idle[at] = 0;
    p->frames++;
}

static void remove_frame(struct reader_prediction *p, int at)
{
    p->frames--;
    memmove(p->frame + at, p->frame + at + 1, sizeof *p->frame * (size_t)(p->frames - at));
    memmove(p->frame_idle + at, p->frame_idle + at + 1, (size_t)(p->frames - at));
}

#if LEAF_THROUGH_CFRAME
/* The one that was idle longest makes room. */
static void remember_cframe(struct reader_prediction *p, uintptr_t cframe)
{
    int at = 0;
    for (int i = 0; i < p->cframes; i++) {
        p->cframe_idle[i] = p->cframe_idle[i] < UINT8_MAX ? p->cframe_idle[i] + 1 : UINT8_MAX;
        if (p->cframe_idle[i] > p->cframe_idle[at])
            at = i;
    }
    if (p->cframes < READER_CFRAMES)
        at = p->cframes++;
    p->cframe[at] = cframe;
    p->cframe_idle[at] = 0;
}
#endif

/* Which piece could not be read, by the number of bytes that came: forget it. */
static enum outcome mend(const struct plan *plan, size_t got, struct copy *copy,
                         const struct reader_thread *thread, struct reader_prediction *p)
{
    int at = 0;
    while (at < plan->count && got >= plan->pieces[at].iov_len)
        got -= plan->pieces[at++].iov_len;
    if (at == 0 || at >= plan->count - 1)
        return GONE;
#if LEAF_THROUGH_CFRAME
    for (int i = 0; i < p->cframes; i++) {
        if (p->cframe[i] + offsetof(_PyCFrame, current_frame) == (uintptr_t)plan->pieces[at].iov_base) {
            p->cframe[i] = p->cframe[--p->cframes];
            p->cframe_idle[i] = p->cframe_idle[p->cframes];
            return AGAIN;
        }
    }
#endif
    uintptr_t frame = (uintptr_t)plan->pieces[at].iov_base + FRAME_PREFIX;
    for (int i = 0; i < p->frames; i++) {
        if (p->frame[i] == frame) {
            remove_frame(p, i);
            return AGAIN;
        }
    }
    return list_chunks(copy, thread, p) ? AGAIN : GONE;
}

/* `cframes`: where the C frames of the prediction pointed. */
static enum outcome find_leaf(struct snapshot *snapshot, const uint8_t *marks, const uint8_t *cframes,
                              struct reader_prediction *p)
{
#if LEAF_THROUGH_CFRAME
    uintptr_t cframe = MARKS_WORD(marks, cframe);
    for (int i = 0; i < p->cframes; i++) {
        if (p->cframe[i] == cframe) {
            p->cframe_idle[i] = 0;
            snapshot->leaf = word_at(cframes + sizeof(uintptr_t) * (size_t)i);
            return TAKEN;
        }
    }
    if (cframe < LEAST_ADDRESS || cframe % sizeof(void *) != 0)
        return GONE;
    remember_cframe(p, cframe);
    return AGAIN;
#else
    (void)cframes, (void)p;
    snapshot->leaf = MARKS_WORD(marks, current_frame);
    return TAKEN;
#endif
}

/* Single frames [from, to) of the prediction. */
static void name_frames(struct snapshot *snapshot, struct plan *plan, int from, int to)
{
    const struct reader_prediction *p = snapshot->prediction;
    for (int i = from; i < to && i < p->frames; i++) {
        snapshot->frame_at[i] = p->frame[i];
        snapshot->met[i] = 0;
        snapshot->frame[i] = name(plan, p->frame[i] - FRAME_PREFIX, FRAME_PREFIX + FRAME_HEAD) + FRAME_PREFIX;
    }
}

TICK_PATH enum outcome snapshot_take(struct snapshot *snapshot, struct copy *copy,
                                     const struct reader_thread *thread, struct reader_prediction *p)
{
    if (p->chunks == 0 && !list_chunks(copy, thread, p))
        return GONE;
    snapshot->thread = thread;
    snapshot->prediction = p;
    snapshot->whole = false;
    snapshot->cut = p->cut;
    snapshot->chunks = p->chunks;
    snapshot->frames = p->frames;
    snapshot->leaf = snapshot->top = snapshot->data_end = snapshot->gap = 0;
    snapshot->met_last = 0;

    struct plan plan; /* large: an initializer would clear all of it */
    plan.count = 0;
    plan.bytes = 0;
    plan.next = copy->bytes;
    const uintptr_t context_at = thread->tstate + offsetof(PyThreadState, context);
    const uint8_t *context = name(&plan, context_at, sizeof(uintptr_t));
    const uint8_t *marks = name(&plan, thread->tstate + MARKS_AT, MARKS_BYTES), *cframes = plan.next;
#if LEAF_THROUGH_CFRAME
    for (int i = 0; i < p->cframes; i++)
        name(&plan, p->cframe[i] + offsetof(_PyCFrame, current_frame), sizeof(uintptr_t));
#endif
    const uint32_t rest = READER_OFF_CHUNK * (FRAME_PREFIX + FRAME_HEAD) + TSTATE_BYTES;
    const int early = copy->readv ? 0 : EARLY_FRAMES; /* slow copies: the data stack must come first */
    name_frames(snapshot, &plan, 0, early);
    for (int k = p->chunks - 1; k >= 0; k--) {
        bool fits = plan.bytes + p->chunk_used[k] + rest <= COPY_BYTES;
        snapshot->chunk[k] = fits ? name(&plan, p->chunk[k], p->chunk_used[k]) : NULL;
        snapshot->chunk_at[k] = p->chunk[k];
        snapshot->chunk_bytes[k] = p->chunk_used[k];
    }
    name_frames(snapshot, &plan, early, p->frames);
    snapshot->tstate = name(&plan, thread->tstate + TSTATE_FIRST, TSTATE_BYTES);

    ssize_t got = copy_gather(copy, plan.pieces, plan.count);
    if (got < 0) {
        copy_close(copy);
        return copy_open(copy) == 0 ? AGAIN : GONE;
    }
    if ((size_t)got < plan.bytes)
        return mend(&plan, (size_t)got, copy, thread, p);
    if (!is_thread(thread, snapshot->tstate))
        return GONE;
    snapshot->whole = true;
    snapshot->context = word_at(context);
    snapshot->context_moved = MARKS_WORD(marks, context) != snapshot->context ||
                              TSTATE_WORD(snapshot->tstate, context) != snapshot->context;
#if LEAF_THROUGH_CFRAME
    snapshot->top = MARKS_WORD(marks, datastack_top);
#endif
    return find_leaf(snapshot, marks, cframes, p);
}

/* The chunk of the prediction that `address` lies in, by a fresh look at its size; -1 if none. */
static int chunk_around(struct copy *copy, const struct reader_prediction *p, uintptr_t address,
                        uint64_t *size)
{
    for (int k = p->chunks - 1; k >= 0; k--) {
        _PyStackChunk head;
        if (address - p->chunk[k] < CHUNK_MOST_EVER && address - p->chunk[k] >= CHUNK_HEAD &&
            copy_piece(copy, p->chunk[k], &head, CHUNK_HEAD) && address - p->chunk[k] < head.size) {
            *size = head.size;
            return k;
        }
    }
    return -1;
}

/* A frame on the data stack is missing: it lies beyond what was gathered of its chunk, or on a chunk not
 * known. */
static enum outcome learn_on_chunk(const struct snapshot *snapshot, struct copy *copy, uintptr_t address)
{
    struct reader_prediction *p = snapshot->prediction;
    uint64_t size, wanted;
    int k = chunk_around(copy, p, address, &size);
    if (k < 0) {
        if (!list_chunks(copy, snapshot->thread, p))
            return GONE;
        if (chunk_around(copy, p, address, &size) >= 0)
            return AGAIN;
        return p->cut ? BEYOND : GARBAGE;
    }
    wanted = (uint64_t)(address - p->chunk[k]) + FRAME_HEAD;
    if (wanted <= p->chunk_used[k])
        return BEYOND; /* it was named to be gathered, but there was no room */
    if (wanted <= chunk_part(wanted + SLACK, size))
        p->chunk_used[k] = chunk_part(wanted + SLACK, size);
    else
        insert_frame(p, 0, address);
    return AGAIN;
}

enum outcome snapshot_learn(struct snapshot *snapshot, struct copy *copy, uintptr_t address)
{
    struct reader_prediction *p = snapshot->prediction;
    int learned = 0;
    for (int hop = 0; hop < CHAIN_MOST && address >= LEAST_ADDRESS && address % sizeof(void *) == 0; hop++) {
#ifdef BASE_FRAME
        if (address == snapshot->thread->tstate + BASE_FRAME)
            break;
#endif
        /* What was gathered costs nothing to look at again. */
        int k = snapshot_chunk_of(snapshot, address, -1);
        const uint8_t *copied = snapshot_frame(snapshot, address, k);
        _PyInterpreterFrame head;
        const _PyInterpreterFrame *frame = (const _PyInterpreterFrame *)(const void *)copied;
        if (copied == NULL) {
            if (k < 0 && !copy_piece(copy, address, &head, FRAME_HEAD))
                break;
            if (k >= 0 || head.owner == FRAME_OWNED_BY_THREAD)
                return learned > 0 ? AGAIN : learn_on_chunk(snapshot, copy, address);
            if (head.owner != FRAME_OWNED_BY_GENERATOR && !frame_is_entry(&head))
                break;
            insert_frame(p, learned++, address);
            frame = &head;
        }
        address = (uintptr_t)frame->previous;
    }
    return learned > 0 ? AGAIN : GARBAGE;
}

/* Put the frames that the walk met into its order (they nearly always are), and drop those long not met. */
static void settle_frames(const struct snapshot *snapshot, struct reader_prediction *p)
{
    uint16_t met[READER_OFF_CHUNK];
    int n = 0;
    for (int i = 0; i < p->frames; i++) {
        uintptr_t frame = p->frame[i];
        uint16_t order = snapshot->met[i] != 0 ? snapshot->met[i] : UINT16_MAX;
        uint8_t idle = order != UINT16_MAX ? 0 : p->frame_idle[i] + 1;
        if (idle > IDLE_MOST)
            continue;
        int at = n++;
        for (; order != UINT16_MAX && at > 0 && met[at - 1] > order; at--) {
            p->frame[at] = p->frame[at - 1];
            p->frame_idle[at] = p->frame_idle[at - 1];
            met[at] = met[at - 1];
        }
        p->frame[at] = frame;
        p->frame_idle[at] = idle;
        met[at] = order;
    }
    p->frames = n;
}

TICK_PATH void snapshot_settle(const struct snapshot *snapshot)
{
    struct reader_prediction *p = snapshot->prediction;
    settle_frames(snapshot, p);
    uintptr_t newest = TSTATE_WORD(snapshot->tstate, datastack_chunk);
    uintptr_t top = TSTATE_WORD(snapshot->tstate, datastack_top);
    for (int k = p->chunks - 1; k >= 0; k--) {
        /* The walk may have had the chunks listed anew since. */
        if (k >= snapshot->chunks || snapshot->chunk_at[k] != p->chunk[k] || snapshot->chunk[k] == NULL)
            continue;
        const _PyStackChunk *head = snapshot_chunk(snapshot, k);
        if (p->chunk[k] != newest) {
            p->chunk_used[k] = chunk_part(CHUNK_HEAD + (uint64_t)head->top * sizeof(void *), head->size);
            continue;
        }
        p->chunks = k + 1; /* newer ones were given back */
        uint32_t wanted = chunk_part((uint64_t)(top - newest) + SLACK, head->size);
        uint32_t had = p->chunk_used[k];
        /* Slowly, as a stack that turns out to be deeper must be gathered again, and by then it may be
         * another. */
        p->chunk_used[k] = wanted >= had ? wanted : had - (had - wanted) / 32 / 8 * 8;
    }
}

void snapshot_doubt(const struct snapshot *snapshot)
{
    if (snapshot->chunks != 0 && snapshot->chunk[0] != NULL && !snapshot->cut &&
        snapshot_chunk(snapshot, 0)->previous != NULL)
        snapshot->prediction->chunks = 0; /* the list of chunks itself is wrong */
}

void snapshot_forget(struct reader_prediction *prediction)
{
    prediction->chunks = 0;
}

#endif
