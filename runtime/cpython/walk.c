/* From a snapshot to a stack: see walk.h. */
#include "runtime/cpython/walk.h"

#include "runtime/cpython/calls.h"
#include "runtime/cpython/code_table.h"
#include "runtime/tick_path.h"

#if !HEAP_FRAMES

enum {
    STEPS_MOST = 4 * STACK_FRAMES, /* more is a cycle */
    GAP_MOST = 16,                 /* frames that may be dying at once above one frame */
    HOPS_MOST = 64,                /* generators and shims between two frames of the data stack */
};

/* A frame whose code is known and whose instruction lies in it. */
struct seen {
    const _PyInterpreterFrame *frame;
    struct code *code;
    uint32_t frame_bytes;
    uint32_t instruction;
    bool complete;   /* it has begun to run its own code */
    bool internal;   /* a trampoline: it calls without ever having begun */
    bool past_first; /* beyond its first instruction, in which only C code that interrupts it can call */
    bool at_call;    /* at an instruction that calls; not looked at in a leaf */
};

/* Callers mostly stand where they stood last, which their slot tells without a look at the map. */
static bool is_at_call(struct code_slot *slot, uint32_t unit)
{
    if (slot->call == unit + 1)
        return true;
    if (!calls_may(codes_entry(slot)->calls, unit))
        return false;
    slot->call = unit < UINT16_MAX ? (uint16_t)(unit + 1) : 0;
    return true;
}

/* `leaf`: it need not stand at a call. */
static bool look(struct copy *copy, const uint8_t *copied, bool leaf, struct seen *seen)
{
    const _PyInterpreterFrame *frame = (const _PyInterpreterFrame *)(const void *)copied;
    uintptr_t executable = frame_executable(frame);
    bool full = false;
    struct code_slot *slot = codes_lookup(copy, executable, &full);
#ifdef FRAMES_FORGET_CODE
    if (executable == 0 && (slot = codes_around(copy, frame_instruction(frame), &full)) != NULL)
        executable = slot->address;
#endif
    if (slot == NULL)
        return false;
    seen->code = codes_entry(slot);
    seen->frame_bytes = slot->frame_bytes;
    seen->internal = slot->first_traceable >= slot->instructions;
    uintptr_t offset = frame_instruction(frame) - (executable + CODE_HEAD);
    seen->frame = frame;
    if (offset == (uintptr_t)0 - sizeof(_Py_CODEUNIT)) { /* just created: one before the first */
        seen->instruction = 0;
        seen->complete = seen->past_first = seen->at_call = false;
        return true;
    }
    if (offset % sizeof(_Py_CODEUNIT) != 0 || offset / sizeof(_Py_CODEUNIT) >= slot->instructions)
        return false;
    seen->instruction = (uint32_t)(offset / sizeof(_Py_CODEUNIT));
    seen->past_first = seen->instruction > slot->first_traceable;
    seen->at_call = !leaf && is_at_call(slot, seen->instruction);
    seen->complete = frame->owner == FRAME_OWNED_BY_GENERATOR || seen->instruction >= slot->first_traceable;
    return true;
}

/* How a frame came to run. */
enum entered {
    ENTERED_BY_C,
    ENTERED_AS_CALL,      /* by the interpreter, from the frame below */
    ENTERED_AS_GENERATOR, /* resumed so */
};

/*
 * Can it be what entered the frame above it so? What C code calls can be called from anywhere, once the frame
 * has begun. Where the interpreter calls, the frame must be at such an instruction, or else it has gone on
 * since and may even be another one by now (`*doubtful`).
 */
static bool may_have_entered(const struct seen *seen, enum entered entered, bool *doubtful)
{
    if (seen->internal)
        return true;
    if (!seen->complete || (entered != ENTERED_BY_C && !seen->past_first))
        return false;
    if (entered == ENTERED_AS_CALL && !seen->at_call)
        *doubtful = true;
    return true;
}

static void add(struct stack *out, const struct seen *seen)
{
    if (!seen->complete)
        return;
    out->frame[out->count++] = (struct stack_frame){seen->code, seen->instruction};
}

/* What the walk followed from one frame of the data stack to the next. */
struct link {
    int shims, generators;
};

/*
 * Is what lies between two frames certainly dying? The link between them tells that the lower one was current
 * when the upper one was called, so that what lies between had returned but was not popped. But a shim may
 * have become another's since the leaf was read, and what has returned is told from what has just been called
 * only where the caller waits still, or where the shim of its own call stands there too. A generator may have
 * been resumed by another frame.
 */
static bool is_certain(const struct link *link, const _PyInterpreterFrame *caller)
{
    return link->generators == 0 && (link->shims > 1 || (caller != NULL && frame_awaits_dying(caller)));
}

/*
 * Does the frame at `child` on chunk `k_child` follow what ends at `at` on chunk `k`, where `caller` ends
 * (NULL: the stack begins there), if `link` leads from the one to the other?
 */
TICK_PATH static bool follows(struct snapshot *snapshot, struct copy *copy, const _PyInterpreterFrame *caller,
                              uintptr_t at, int k, uintptr_t child, int k_child, const struct link *link)
{
    uintptr_t gap[GAP_MOST];
    bool begun = true;
    for (int n = 0;;) {
        if (at == child) {
            if (n > 0 && !(begun && is_certain(link, caller)))
                snapshot->gap = child;
            return true;
        }
        if (k < k_child &&
            at == snapshot->chunk_at[k] + CHUNK_HEAD + snapshot_chunk(snapshot, k)->top * sizeof(void *)) {
            if (snapshot->chunk[k + 1] == NULL ||
                (uintptr_t)snapshot_chunk(snapshot, k + 1)->previous != snapshot->chunk_at[k])
                return false;
            at = snapshot->chunk_at[++k] + CHUNK_HEAD;
            continue;
        }
        const uint8_t *copied = snapshot_frame(snapshot, at, k);
        struct seen dying;
        if (k > k_child || (k == k_child && at > child) || n == GAP_MOST || copied == NULL ||
            !look(copy, copied, true, &dying) || dying.frame->owner != FRAME_OWNED_BY_THREAD ||
            !frame_may_die(dying.frame, at))
            return false;
        /* What was called by another of the gap is no more dying than that one. */
        for (int i = 0; i < n; i++) {
            if ((uintptr_t)dying.frame->previous == gap[i])
                return false;
        }
        gap[n++] = at;
        begun &= dying.complete;
        at += dying.frame_bytes;
    }
}

/* Is `bottom` on chunk `k` the thread's first frame? The root chunk keeps its first word free. */
static bool is_base(struct snapshot *snapshot, struct copy *copy, uintptr_t bottom, int k,
                    const struct link *link)
{
    return snapshot->chunk[0] != NULL && snapshot_chunk(snapshot, 0)->previous == NULL &&
           follows(snapshot, copy, NULL, snapshot->chunk_at[0] + CHUNK_HEAD + sizeof(void *), 0, bottom, k,
                   link);
}

/* Are there no frames on the data stack, so that a stack without any of them may be whole? */
static bool is_empty(const struct snapshot *snapshot)
{
    return snapshot->chunks == 0 ||
           (snapshot->chunks == 1 && TSTATE_WORD(snapshot->tstate, datastack_top) <=
                                         snapshot->chunk_at[0] + CHUNK_HEAD + sizeof(void *));
}

/* What the first frame's link leads to: nothing, or a mark in the thread state (3.15), which is not read. */
static uintptr_t end_of_links(const struct snapshot *snapshot)
{
#ifdef BASE_FRAME
    return snapshot->thread->tstate + BASE_FRAME;
#else
    (void)snapshot;
    return 0;
#endif
}

TICK_PATH enum walked walk_stack(struct snapshot *snapshot, struct copy *copy, struct stack *out,
                                 uintptr_t *missing)
{
    uintptr_t child = 0, at = snapshot->leaf;
    int k_child = -1, hint = snapshot->chunks - 1;
    enum entered entered = ENTERED_BY_C; /* the frame before */
    const uintptr_t end = end_of_links(snapshot);
    struct link link = {0};
    snapshot->doubtful = false;
    out->count = 0;
    for (int steps = 0; at != end; steps++) {
        if (steps == STEPS_MOST || at == 0)
            return WALK_INVALID;
        if (out->count == STACK_FRAMES) {
            out->flags |= STACK_TRUNCATED;
            return WALK_VALID;
        }
        int k = snapshot_chunk_of(snapshot, at, hint);
        const uint8_t *copied = snapshot_frame(snapshot, at, k);
        if (copied == NULL) {
            *missing = at;
            return WALK_MISSING;
        }
        const _PyInterpreterFrame *frame = (const _PyInterpreterFrame *)(const void *)copied;
        if (frame_is_entry(frame)) {
            if (k >= 0)
                return WALK_INVALID;
            entered = ENTERED_BY_C;
            link.shims++;
            at = (uintptr_t)frame->previous;
            continue;
        }
        struct seen seen;
        if (!look(copy, copied, at == snapshot->leaf, &seen))
            return WALK_INVALID;
        if (at != snapshot->leaf && !may_have_entered(&seen, entered, &snapshot->doubtful))
            return WALK_INVALID;
        entered = frame_enters_from_c(frame)                 ? ENTERED_BY_C
                  : frame->owner == FRAME_OWNED_BY_GENERATOR ? ENTERED_AS_GENERATOR
                                                             : ENTERED_AS_CALL;
        if (frame->owner == FRAME_OWNED_BY_THREAD) {
            if (child == 0)
                snapshot->data_end = at + seen.frame_bytes;
            if (k < 0 || (child != 0 &&
                          !follows(snapshot, copy, frame, at + seen.frame_bytes, k, child, k_child, &link)))
                return WALK_INVALID;
            link = (struct link){0};
            child = at;
            hint = k_child = k;
        } else if (frame->owner != FRAME_OWNED_BY_GENERATOR || k >= 0 ||
                   (generator_state(copied) != FRAME_EXECUTING &&
                    (at != snapshot->leaf || frame->previous == NULL))) {
            /* A leaf that is about to yield is already marked suspended; what it calls or what calls it never
             * is. */
            return WALK_INVALID;
        } else {
            link.generators++;
        }
        add(out, &seen);
        at = (uintptr_t)frame->previous;
    }
    /* A generator that yields while it is copied has no caller any more, but is not the first frame either.
     */
    bool whole = child == 0 ? is_empty(snapshot) : is_base(snapshot, copy, child, k_child, &link);
    return whole ? WALK_VALID : WALK_INVALID;
}

/*
 * The generators and shims between the frame at `from` and its caller `caller` on the data stack (0: none).
 * What `from` points to may have gone from the C stack; then the caller, known by the sizes, called it
 * through C.
 */
static int between(struct snapshot *snapshot, struct copy *copy, uintptr_t from, uintptr_t caller,
                   struct stack_frame *frames, int most)
{
    const uintptr_t to = caller != 0 ? caller : end_of_links(snapshot);
    int n = 0;
    for (int hops = 0; from != to; hops++) {
        const uint8_t *copied = from == 0 || hops == HOPS_MOST ? NULL : snapshot_frame(snapshot, from, -1);
        struct seen seen;
        if (copied == NULL)
            return -1;
        const _PyInterpreterFrame *frame = (const _PyInterpreterFrame *)(const void *)copied;
        if (!frame_is_entry(frame)) {
            if (frame->owner != FRAME_OWNED_BY_GENERATOR || !look(copy, copied, false, &seen))
                return hops == 0 && caller != 0 ? 0 : -1;
            if (n == most)
                return -1;
            frames[n++] = (struct stack_frame){seen.code, seen.instruction};
        }
        from = (uintptr_t)frame->previous;
    }
    return n;
}

static void turn_around(struct stack *stack)
{
    for (uint32_t i = 0, j = stack->count; i + 1 < j; i++) {
        struct stack_frame frame = stack->frame[i];
        stack->frame[i] = stack->frame[--j];
        stack->frame[j] = frame;
    }
}

/*
 * Is the frame at `at`, the last one below the mark, only being pushed, so that what stands there is what
 * another call left behind? Then the frame below, `caller`, is the leaf and runs, at a call. One that had
 * returned to it since the mark was read would have gone on from there.
 */
static bool is_pushed_only(const struct snapshot *snapshot, const struct seen *last, uintptr_t at,
                           const struct seen *below, uintptr_t caller)
{
    return caller != 0 && snapshot->leaf == caller && frame_may_die(last->frame, at) &&
           !frame_may_die(below->frame, caller) && below->at_call;
}

/*
 * From the root by the sizes of the frames, as far as they are valid and begin no later than at `most`. Fills
 * `out`; `*last` and `*end`: where the last of them begins and ends, 0 if the root is not known. Returns how
 * many generators lie between them.
 */
static int collect(struct snapshot *snapshot, struct copy *copy, uintptr_t most, struct stack *out,
                   uintptr_t *last, uintptr_t *end)
{
    int generators = 0;
    *last = *end = 0;
    snapshot->doubtful = false;
    out->count = 0;
    if (snapshot->chunks == 0 || snapshot->chunk[0] == NULL || snapshot_chunk(snapshot, 0)->previous != NULL)
        return 0;
    int last_chunk = snapshot_chunk_of(snapshot, most, -1);
    uintptr_t at = snapshot->chunk_at[0] + CHUNK_HEAD + sizeof(void *), caller = 0;
    struct seen below = {.internal = true}; /* C code may call the first one */
    for (int k = 0; k < last_chunk || (k == last_chunk && at <= most);) {
        const uint8_t *copied = snapshot_frame(snapshot, at, k);
        struct seen seen;
        struct stack_frame frames[HOPS_MOST];
        if (copied == NULL || !look(copy, copied, false, &seen) || seen.frame->owner != FRAME_OWNED_BY_THREAD)
            break;
        enum entered entered = (uintptr_t)seen.frame->previous != caller || frame_enters_from_c(seen.frame)
                                   ? ENTERED_BY_C
                                   : ENTERED_AS_CALL;
        int n = between(snapshot, copy, (uintptr_t)seen.frame->previous, caller, frames, HOPS_MOST);
        if (n < 0 || !may_have_entered(&below, entered, &snapshot->doubtful) ||
            out->count + (uint32_t)n + 1 > STACK_FRAMES)
            break;
        generators += n;
        while (n > 0)
            out->frame[out->count++] = frames[--n];
        bool begun = seen.complete;
        if (MARK_IS_AN_END && at + seen.frame_bytes == snapshot->top)
            begun &= !is_pushed_only(snapshot, &seen, at, &below, caller);
        if (begun)
            out->frame[out->count++] = (struct stack_frame){seen.code, seen.instruction};
        below = seen;
        caller = at;
        at += seen.frame_bytes;
        if (k + 1 < snapshot->chunks && snapshot->chunk[k + 1] != NULL &&
            at == snapshot->chunk_at[k] + CHUNK_HEAD + snapshot_chunk(snapshot, k)->top * sizeof(void *))
            at = snapshot->chunk_at[++k] + CHUNK_HEAD;
    }
    turn_around(out);
    *last = caller;
    *end = at;
    return generators;
}

static int running_generators(const struct snapshot *snapshot)
{
    int n = 0;
    for (int i = 0; i < snapshot->frames; i++) {
        const _PyInterpreterFrame *frame = (const _PyInterpreterFrame *)(const void *)snapshot->frame[i];
        n += frame->owner == FRAME_OWNED_BY_GENERATOR &&
             generator_state(snapshot->frame[i]) == FRAME_EXECUTING;
    }
    return n;
}

bool walk_from_root(struct snapshot *snapshot, struct copy *copy, struct stack *out)
{
    uintptr_t last, end;
#if MARK_IS_AN_END
    int generators = collect(snapshot, copy, snapshot->top - 1, out, &last, &end);
    bool reached = end == snapshot->top;
#else
    /* A leaf outside the data stack tells nothing of where that ended. */
    uintptr_t most = snapshot_chunk_of(snapshot, snapshot->leaf, -1) >= 0
                         ? snapshot->leaf
                         : TSTATE_WORD(snapshot->tstate, datastack_top) - 1;
    int generators = collect(snapshot, copy, most, out, &last, &end);
    bool reached = last == snapshot->leaf;
#endif
    return reached && generators == running_generators(snapshot);
}

TICK_PATH bool walk_met_mark(const struct snapshot *snapshot)
{
#if MARK_IS_AN_END
    return snapshot->data_end == snapshot->top;
#else
    (void)snapshot; /* the walk began there */
    return true;
#endif
}

#endif
