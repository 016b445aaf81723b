/*
 * Snapshot and walk of CPython 3.10: see snapshot.h and walk.h.
 *
 * There is no data stack. Frames are objects, linked by f_back from tstate->frame. One gather takes the
 * thread state (the leaf first) and every frame that was lately seen, in the order of the last stack. That
 * guess is good: a code object keeps one frame object for its next call, and more come from a free list.
 *
 * There is no geometry either, but frames tell more. A frame that has called is executing and is counted as
 * referenced; what returned is marked so, and the links of the free list lead to such frames only. No frame
 * can be met twice, nor more frames than the thread state says calls are open. So a stack that mixes two
 * moments shows itself, unless the same frame objects were called in another order meanwhile.
 *
 * That is what recursions do: all but the first frame of a function come from the free list, always in the
 * same order, so that those of another recursion are linked alike. Where functions have called themselves the
 * links of each frame are gathered twice, before the leaf, root first, and after it, leaf first: the moment
 * of the leaf is in the middle for all of them. A frame that is the same on both sides was there in between.
 * Frames that were called while the first half was copied are not, and then nothing above them can be; so
 * where a frame that was there stands on one that was not, the latter was called after the leaf was read.
 */
#include "runtime/cpython/code_table.h"
#include "runtime/cpython/walk.h"

#if HEAP_FRAMES

enum {
    AGAIN_MOST = 16, /* callers that have returned and were called again while their stack was read */
    IDLE_MOST = 16,  /* reads after which a frame is not gathered any more */
    TSTATE_BYTES = TSTATE_END - TSTATE_FIRST,
    LEAST_ADDRESS = 4096,
    LINKS_AT = offsetof(PyFrameObject, f_back), /* f_back and f_code */
    LINKS_BYTES = 2 * sizeof(void *),
    CYCLE_MOST = 4,      /* functions that call each other in a circle, to be taken for recursive */
    RECURSIVE_MOST = 64, /* reads for which it is expected again */
};
_Static_assert(READER_OFF_CHUNK > STACK_FRAMES, "a whole stack fits");
_Static_assert(TSTATE_BYTES + READER_OFF_CHUNK * (LINKS_BYTES + FRAME_HEAD) <= COPY_BYTES,
               "a whole gather fits");
_Static_assert(offsetof(PyFrameObject, f_code) == LINKS_AT + sizeof(void *), "one piece");

static const PyFrameObject *frame_of(const uint8_t *copied)
{
    return (const PyFrameObject *)(const void *)copied;
}

static bool is_frame(const PyFrameObject *frame)
{
    return frame->ob_base.ob_base.ob_type == &PyFrame_Type;
}

static void drop(struct reader_prediction *p, int at)
{
    --p->frames;
    memmove(p->frame + at, p->frame + at + 1, (size_t)(p->frames - at) * sizeof p->frame[0]);
    memmove(p->frame_idle + at, p->frame_idle + at + 1, (size_t)(p->frames - at));
}

static unsigned slot_of(const struct snapshot *snapshot, uintptr_t address)
{
    return (unsigned)((uint64_t)(address >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> (64 - snapshot->slot_bits));
}

/* Make room for the slots of `frames` frames and those that may come late. */
static void empty_slots(struct snapshot *snapshot, int frames)
{
    snapshot->slot_bits = 10;
    while (1 << snapshot->slot_bits < 2 * (frames + SNAPSHOT_LATE) &&
           snapshot->slot_bits < SNAPSHOT_SLOT_BITS)
        snapshot->slot_bits++;
    memset(snapshot->slot, 0, sizeof snapshot->slot[0] << snapshot->slot_bits);
}

static void add_frame(struct snapshot *snapshot, uintptr_t address, const uint8_t *copied)
{
    const int i = snapshot->frames++;
    snapshot->frame_at[i] = address;
    snapshot->frame[i] = copied;
    snapshot->before[i] = NULL;
    snapshot->used[i] = false;
    unsigned slot = slot_of(snapshot, address);
    while (snapshot->slot[slot] != 0)
        slot = (slot + 1) & ((1u << snapshot->slot_bits) - 1);
    snapshot->slot[slot] = (uint16_t)(i + 1);
}

/* Index of the frame at `address`, or -1. `hint`: it is expected there, as the last stack was alike. */
static int find(const struct snapshot *snapshot, uintptr_t address, int hint)
{
    if (hint < snapshot->frames && snapshot->frame_at[hint] == address)
        return hint;
    unsigned slot = slot_of(snapshot, address);
    for (; snapshot->slot[slot] != 0; slot = (slot + 1) & ((1u << snapshot->slot_bits) - 1)) {
        if (snapshot->frame_at[snapshot->slot[slot] - 1] == address)
            return snapshot->slot[slot] - 1;
    }
    return -1;
}

/* Predict `address`, in the place of a frame that is in nobody's way: from the back, where the idle ones are.
 * `keep` marks those of this walk; `*back` goes on where the last call ended. */
static bool remember(struct reader_prediction *p, bool *keep, int *back, uintptr_t address)
{
    int at = p->frames;
    if (at < READER_OFF_CHUNK) {
        p->frames++;
    } else {
        while (*back >= 0 && keep[*back])
            --*back;
        at = *back;
        if (at < 0)
            return false;
    }
    p->frame[at] = address;
    p->frame_idle[at] = 0;
    keep[at] = true;
    return true;
}

enum outcome snapshot_take(struct snapshot *snapshot, struct copy *copy, const struct reader_thread *thread,
                           struct reader_prediction *p)
{
    struct iovec pieces[READER_OFF_CHUNK + 2 + READER_OFF_CHUNK];
    const uint8_t *at = copy->bytes;
    int count = 0;
    snapshot->thread = thread;
    snapshot->prediction = p;
    snapshot->frames = 0;
    snapshot->late = 0;
    snapshot->block_at = 0;
    snapshot->whole = false;
    empty_slots(snapshot, p->frames);
    const int before = p->recursive > 0 ? p->frames : 0;
    for (int i = before - 1; i >= 0; i--)
        pieces[count++] = (struct iovec){(void *)(p->frame[i] + LINKS_AT), LINKS_BYTES};
    at += before * LINKS_BYTES;
    const uint8_t *tstate = at;
    pieces[count++] = (struct iovec){(void *)(thread->tstate + TSTATE_FIRST), TSTATE_BYTES};
    at += TSTATE_BYTES;
    const uint8_t *first = at;
    for (int i = 0; i < p->frames; i++) {
        pieces[count++] = (struct iovec){(void *)p->frame[i], FRAME_HEAD};
        add_frame(snapshot, p->frame[i], at);
        if (before != 0)
            snapshot->before[i] = copy->bytes + (before - 1 - i) * LINKS_BYTES;
        at += FRAME_HEAD;
    }
    const uint8_t *context_behind = at;
    pieces[count++] =
        (struct iovec){(void *)(thread->tstate + offsetof(PyThreadState, context)), sizeof(uintptr_t)};
    ssize_t got = copy_gather(copy, pieces, count);
    if (got < 0) {
        copy_close(copy);
        return copy_open(copy) == 0 ? AGAIN : GONE;
    }
    if (got < tstate - copy->bytes) {
        drop(p, before - 1 - (int)(got / LINKS_BYTES));
        return AGAIN;
    }
    if (got < first - copy->bytes)
        return GONE;
    if (got < at - copy->bytes) {
        drop(p, (int)((got - (first - copy->bytes)) / FRAME_HEAD));
        return AGAIN;
    }
    if (TSTATE_WORD(tstate, id) != thread->tstate_id ||
        TSTATE_WORD(tstate, TSTATE_NATIVE_ID) != thread->tstate_native_id)
        return GONE;
    if (got < context_behind - copy->bytes + (ssize_t)sizeof(uintptr_t))
        return GONE;
    snapshot->leaf = TSTATE_WORD(tstate, frame);
    snapshot->context = TSTATE_WORD(tstate, context);
    snapshot->context_moved = word_at(context_behind) != snapshot->context;
    memcpy(&snapshot->depth, tstate + offsetof(PyThreadState, recursion_depth) - TSTATE_FIRST, sizeof(int));
    int tracing;
    memcpy(&tracing, tstate + offsetof(PyThreadState, tracing) - TSTATE_FIRST, sizeof tracing);
    snapshot->tracing = tracing != 0;
    snapshot->whole = true;
    return TAKEN;
}

/* Read the frame at `address` by way of the block around it, where that can be copied. NULL: there is none.
 */
static const uint8_t *look_near(struct snapshot *snapshot, struct copy *copy, uintptr_t address)
{
    if (address < LEAST_ADDRESS || address % sizeof(void *) != 0)
        return NULL;
    uintptr_t start = address & ~(uintptr_t)(SNAPSHOT_BLOCK - 1);
    const uint8_t *found = snapshot->block;
    if (address - start <= SNAPSHOT_BLOCK - FRAME_HEAD &&
        (snapshot->block_at == start || copy_piece(copy, start, snapshot->block, SNAPSHOT_BLOCK))) {
        snapshot->block_at = start;
        found += address - start;
    } else {
        snapshot->block_at = 0;
        if (!copy_piece(copy, address, snapshot->block, FRAME_HEAD))
            return NULL;
    }
    return is_frame(frame_of(found)) ? found : NULL;
}

enum outcome snapshot_learn(struct snapshot *snapshot, struct copy *copy, uintptr_t missing)
{
    (void)missing; /* what lies before it may have been read late, and is not predicted either */
    struct reader_prediction *p = snapshot->prediction;
    const int predicted = p->frames;
    int back = READER_OFF_CHUNK - 1;
    bool keep[READER_OFF_CHUNK] = {0}, learned = false;
    memcpy(keep, snapshot->used, (size_t)predicted);
    uintptr_t address = snapshot->leaf;
    for (int hop = 0, known = -1; hop < STACK_FRAMES && address != 0; hop++) {
        known = find(snapshot, address, known + 1);
        /* What was gathered costs nothing to look at again. */
        const uint8_t *copied = known >= 0 ? snapshot->frame[known] : look_near(snapshot, copy, address);
        if (copied == NULL)
            break;
        if (known >= 0 && known < predicted) {
            keep[known] = true;
        } else {
            if (!remember(p, keep, &back, address))
                break;
            learned = true;
        }
        address = (uintptr_t)frame_of(copied)->f_back;
    }
    return learned ? AGAIN : GARBAGE;
}

/* Put the frames of this stack first, in its order, and behind them those that were not idle for long. */
void snapshot_settle(const struct snapshot *snapshot)
{
    struct reader_prediction *p = snapshot->prediction;
    uintptr_t others[READER_OFF_CHUNK];
    uint8_t idle[READER_OFF_CHUNK];
    int kept = 0;
    for (int i = 0; i < p->frames; i++) {
        if (snapshot->used[i] || p->frame_idle[i] >= IDLE_MOST)
            continue;
        others[kept] = p->frame[i];
        idle[kept++] = (uint8_t)(p->frame_idle[i] + 1);
    }
    int n = 0, at = -1;
    const PyCodeObject *last[CYCLE_MOST] = {NULL};
    bool recursive = false;
    for (uintptr_t address = snapshot->leaf; address != 0;) {
        at = find(snapshot, address, at + 1);
        if (at < 0 || !snapshot->used[at])
            break;
        const PyFrameObject *frame = frame_of(snapshot->frame[at]);
        for (int i = 0; i < CYCLE_MOST; i++)
            recursive |= last[i] == frame->f_code;
        last[n % CYCLE_MOST] = frame->f_code;
        p->frame[n] = address;
        p->frame_idle[n++] = 0;
        address = (uintptr_t)frame->f_back;
    }
    if (kept > READER_OFF_CHUNK - n)
        kept = READER_OFF_CHUNK - n;
    p->recursive = recursive ? RECURSIVE_MOST : p->recursive > 0 ? p->recursive - 1 : 0;
    memcpy(p->frame + n, others, (size_t)kept * sizeof others[0]);
    memcpy(p->frame_idle + n, idle, (size_t)kept);
    p->frames = n + kept;
}

void snapshot_doubt(const struct snapshot *snapshot)
{
    (void)snapshot;
}

void snapshot_forget(struct reader_prediction *prediction)
{
    (void)prediction;
}

/*
 * Read a frame that was not predicted, behind the others. The thread may have gone on since they were
 * gathered; but what it called in that moment was called by frames that are in the gather and were running
 * then, or else the walk will not believe it. Taking another gather instead would prefer frames that stay.
 */
static int take_late(struct snapshot *snapshot, struct copy *copy, uintptr_t address)
{
    const int i = snapshot->frames;
    if (snapshot->late == SNAPSHOT_LATE || i == READER_OFF_CHUNK)
        return -1;
    const uint8_t *copied = look_near(snapshot, copy, address);
    if (copied == NULL)
        return -1;
    uint8_t *kept = snapshot->late_frame[snapshot->late++];
    memcpy(kept, copied, FRAME_HEAD);
    add_frame(snapshot, address, kept);
    return i;
}

/* How much is asked of frames that have called another one. */
enum trust {
    STILL_CALLING, /* that they were still waiting for it when they were copied */
    HAVE_CALLED,   /* that they did at all: they may have returned since the leaf was read */
};

/*
 * Has a frame that has returned kept its link to its caller? Its code keeps one frame for its next call,
 * which may have come since (`*called_again`); others, as recursion makes them, go to the free list, which is
 * linked by the same field.
 */
static bool kept_its_link(struct copy *copy, const PyFrameObject *frame, uintptr_t address,
                          bool *called_again)
{
    uintptr_t kept;
    if (frame->ob_base.ob_base.ob_refcnt > 0)
        return true;
    if (!copy_piece(copy, (uintptr_t)frame->f_code + offsetof(PyCodeObject, co_zombieframe), &kept,
                    sizeof kept))
        return false;
    *called_again = kept == 0;
    return kept == 0 || kept == address;
}

/* Is the code of frame `i` nowhere else on the stack? Then it has but one frame. */
static bool is_alone(const struct stack *stack, uint32_t i)
{
    for (uint32_t j = 0; j < stack->count; j++) {
        if (j != i && stack->frame[j].code == stack->frame[i].code)
            return false;
    }
    return true;
}

static bool has_called(const struct snapshot *snapshot, const PyFrameObject *frame, enum trust trust)
{
    if (snapshot->tracing)
        return frame->ob_base.ob_base.ob_refcnt > 0;
    if (frame->f_lasti < 0)
        return false;
    if (frame->f_state == FRAME_EXECUTING || frame->f_state == FRAME_UNWINDING)
        return frame->ob_base.ob_base.ob_refcnt > 0;
    return trust == HAVE_CALLED && frame->f_state > FRAME_EXECUTING;
}

/* Add the frame unless it has not begun. False: it is none. */
static bool add(struct copy *copy, const PyFrameObject *frame, struct stack *out)
{
    bool full = false;
    const struct code_slot *slot =
        is_frame(frame) ? codes_lookup(copy, (uintptr_t)frame->f_code, &full) : NULL;
    if (slot == NULL || (frame->f_lasti >= 0 && (uint32_t)frame->f_lasti >= slot->instructions))
        return false;
    if (frame->f_lasti >= 0)
        out->frame[out->count++] = (struct stack_frame){codes_entry(slot), (uint32_t)frame->f_lasti};
    return true;
}

/* Was the frame the same before and after the leaf was read? */
static bool has_stayed(const struct snapshot *snapshot, int i)
{
    return memcmp(snapshot->before[i], snapshot->frame[i] + LINKS_AT, LINKS_BYTES) == 0;
}

static enum walked walk(struct snapshot *snapshot, struct copy *copy, enum trust trust, struct stack *out,
                        uintptr_t *missing)
{
    int at = -1, steps = 0, again = 0;
    bool stayed = false;
    uint32_t frame_again[AGAIN_MOST];
    out->count = 0;
    memset(snapshot->used, 0, (size_t)snapshot->frames);
    for (uintptr_t address = snapshot->leaf; address != 0; steps++) {
        if (out->count == STACK_FRAMES) {
            out->flags |= STACK_TRUNCATED;
            return WALK_VALID;
        }
        at = find(snapshot, address, at + 1);
        if (at < 0)
            at = take_late(snapshot, copy, address);
        if (at < 0) {
            *missing = address;
            return WALK_MISSING;
        }
        const PyFrameObject *frame = frame_of(snapshot->frame[at]);
        if (snapshot->used[at] || steps > snapshot->depth || !add(copy, frame, out))
            return WALK_INVALID;
        if (snapshot->before[at] != NULL) { /* of others nothing is known */
            if (stayed && !has_stayed(snapshot, at))
                return WALK_INVALID;
            stayed = has_stayed(snapshot, at);
        }
        /* Of the leaf nothing can be asked: it may be about to begin, to yield or to return. */
        if (address != snapshot->leaf && !has_called(snapshot, frame, trust))
            return WALK_INVALID;
        bool called_again = false;
        if (trust == HAVE_CALLED && frame->f_state > FRAME_EXECUTING &&
            !kept_its_link(copy, frame, address, &called_again))
            return WALK_INVALID;
        if (called_again && (again == AGAIN_MOST || out->count == 0))
            return WALK_INVALID;
        if (called_again)
            frame_again[again++] = out->count - 1;
        snapshot->used[at] = true;
        address = (uintptr_t)frame->f_back;
    }
    while (again > 0) {
        if (!is_alone(out, frame_again[--again]))
            return WALK_INVALID;
    }
    /* A generator that is not running and the end of the free list have no caller either, but the first frame
     * of a thread lives. */
    return steps > 0 && has_called(snapshot, frame_of(snapshot->frame[at]), STILL_CALLING) ? WALK_VALID
                                                                                           : WALK_INVALID;
}

/*
 * A function's own frame keeps its link to its caller when it returns, so the whole stack can often be told
 * although it was left while it was gathered. What is wrong of it is the line of a caller that has returned
 * (the one where it did so).
 */
enum walked walk_stack(struct snapshot *snapshot, struct copy *copy, struct stack *out, uintptr_t *missing)
{
    uintptr_t ignored;
    enum walked walked = walk(snapshot, copy, STILL_CALLING, out, missing);
    snapshot->doubtful =
        walked == WALK_INVALID && walk(snapshot, copy, HAVE_CALLED, out, &ignored) == WALK_VALID;
    return snapshot->doubtful ? WALK_VALID : walked;
}

/* From the one frame without a caller upwards, as long as exactly one frame was called by the last. */
bool walk_from_root(struct snapshot *snapshot, struct copy *copy, struct stack *out)
{
    (void)copy;
    out->count = 0;
    for (uintptr_t caller = 0; out->count < STACK_FRAMES;) {
        int called = -1;
        for (int i = 0; i < snapshot->frames; i++) {
            const PyFrameObject *frame = frame_of(snapshot->frame[i]);
            if ((uintptr_t)frame->f_back != caller || !is_frame(frame) ||
                !has_called(snapshot, frame, STILL_CALLING))
                continue;
            if (called >= 0) {
                called = -1;
                break;
            }
            called = i;
        }
        if (called < 0 || !add(copy, frame_of(snapshot->frame[called]), out))
            break;
        caller = snapshot->frame_at[called];
    }
    for (uint32_t i = 0, j = out->count; i + 1 < j; i++) { /* leaf first */
        struct stack_frame frame = out->frame[i];
        out->frame[i] = out->frame[--j];
        out->frame[j] = frame;
    }
    return false;
}

bool walk_met_mark(const struct snapshot *snapshot)
{
    (void)snapshot; /* the walk began there */
    return true;
}

#endif
