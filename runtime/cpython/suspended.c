/* The stack of a coroutine that waits: see suspended.h. */
#include "runtime/cpython/suspended.h"

#include "runtime/cpython/code_table.h"
#include "runtime/cpython/layout.h"

#ifndef FRAME_STATE_SUSPENDED /* since 3.13 there is more than one such state */
#define FRAME_STATE_SUSPENDED(state) ((state) == FRAME_SUSPENDED)
#endif

enum {
    AWAITED_MOST = 128, /* coroutines in one stack */
    WORDS_BEHIND = 24,  /* copied with a frame: with some luck what it awaits is among them */
    TAG_BITS = 7,       /* of a _PyStackRef (3.14 on); no object's address has them */
};

/* What matters of one coroutine or generator. */
struct waiting {
    uintptr_t code;
    uintptr_t instruction; /* as stack_frame has it: an index in code units */
    uintptr_t awaited;     /* what lies on top of its stack; 0: nothing */
};

static bool read_word(struct copy *copy, uintptr_t address, uintptr_t *out)
{
    return address % sizeof *out == 0 && copy_piece(copy, address, out, sizeof *out);
}

static bool is_coroutine(uintptr_t type)
{
    return type == (uintptr_t)&PyCoro_Type || type == (uintptr_t)&PyGen_Type ||
           type == (uintptr_t)&PyAsyncGen_Type; /* which lie alike */
}

#if HEAP_FRAMES
static bool read_waiting(struct copy *copy, uintptr_t address, struct waiting *out)
{
    PyGenObject object;
    PyFrameObject frame;
    const size_t bytes = offsetof(PyFrameObject, f_blockstack);
    if (address % sizeof(void *) != 0 || !copy_piece(copy, address, &object, sizeof object) ||
        !is_coroutine((uintptr_t)object.ob_base.ob_type) ||
        !copy_piece(copy, (uintptr_t)object.gi_frame, &frame, bytes) || frame.f_state != FRAME_SUSPENDED ||
        frame.f_lasti < 0)
        return false;
    *out = (struct waiting){.code = (uintptr_t)frame.f_code, .instruction = (uintptr_t)frame.f_lasti};
    return frame.f_stackdepth <= 0 ||
           read_word(copy, (uintptr_t)(frame.f_valuestack + frame.f_stackdepth - 1), &out->awaited);
}
#else
enum {
    FRAME_AT = offsetof(PyGenObject, gi_iframe),
    LOCALS_AT = FRAME_AT + FRAME_HEAD,
    WAITING_BYTES = LOCALS_AT + WORDS_BEHIND * (int)sizeof(uintptr_t),
};

#ifndef AWAITED_BELOW_TOP
#define AWAITED_BELOW_TOP 0
#endif

/* Address of what is awaited, the topmost value on the frame's stack or the one below; 0: there is none. */
static uintptr_t top_of_stack(const _PyInterpreterFrame *frame, uintptr_t locals)
{
#ifdef FRAMES_FORGET_CODE /* 3.14 on */
    uintptr_t top = (uintptr_t)frame->stackpointer - AWAITED_BELOW_TOP * sizeof(uintptr_t);
    return top > locals ? top - sizeof(uintptr_t) : 0;
#else
    return frame->stacktop > 0 ? locals + (uintptr_t)(frame->stacktop - 1) * sizeof(uintptr_t) : 0;
#endif
}

static bool read_waiting(struct copy *copy, uintptr_t address, struct waiting *out)
{
    uint8_t bytes[WAITING_BYTES] __attribute__((aligned(8)));
    bool more = true;
    if (address % sizeof(void *) != 0)
        return false;
    if (!copy_piece(copy, address, bytes, sizeof bytes)) {
        more = false; /* it may lie at the end of what can be read */
        if (!copy_piece(copy, address, bytes, LOCALS_AT))
            return false;
    }
    if (!is_coroutine(word_at(bytes + offsetof(PyObject, ob_type))) ||
        !FRAME_STATE_SUSPENDED((int8_t)bytes[offsetof(PyGenObject, gi_frame_state)]))
        return false;
    const _PyInterpreterFrame *frame = (const _PyInterpreterFrame *)(const void *)(bytes + FRAME_AT);
    uintptr_t code = frame_executable(frame), top = top_of_stack(frame, address + LOCALS_AT);
    uintptr_t offset = frame_instruction(frame) - (code + CODE_HEAD);
    if (offset % sizeof(_Py_CODEUNIT) != 0)
        return false;
    *out = (struct waiting){.code = code, .instruction = offset / sizeof(_Py_CODEUNIT)};
    if (top == 0)
        return true;
    if (more && top - address <= sizeof bytes - sizeof(uintptr_t) && top % sizeof(uintptr_t) == 0)
        out->awaited = word_at(bytes + (top - address));
    else if (!read_word(copy, top, &out->awaited))
        return false;
    out->awaited &= ~(uintptr_t)TAG_BITS;
    return true;
}
#endif

/* What stands between two coroutines (`coroutine.__await__()`, a step of an asynchronous generator) has the
 * inner one as its first member. If it is anything else, that will not look like one that waits. */
static uintptr_t unwrap(struct copy *copy, uintptr_t address)
{
    uintptr_t words[3];
    _Static_assert(sizeof(PyObject) == 2 * sizeof(uintptr_t), "an object's head");
    if (address % sizeof(void *) != 0 || !copy_piece(copy, address, words, sizeof words))
        return 0;
    return is_coroutine(words[1]) ? address : words[2];
}

bool reader_read_suspended(struct copy *copy, uintptr_t reference, struct stack *out)
{
    uintptr_t address, at;
    struct waiting waiting, again;
    const uint64_t deaths = codes_begin();
    out->count = out->flags = out->retries = 0;
    if (!read_word(copy, reference + offsetof(PyWeakReference, wr_object), &address))
        return false;
    at = address;
    for (uintptr_t next = address; next != 0 && out->count < AWAITED_MOST;) {
        bool full = false;
        if (!read_waiting(copy, next, &waiting)) {
            if (next == address)
                return false;
            break; /* what is awaited is no coroutine */
        }
        at = next;
        struct code *code = codes_find(copy, waiting.code, &full);
        if (code == NULL || waiting.instruction >= code->instructions)
            return false;
        out->frame[out->count++] = (struct stack_frame){code, (uint32_t)waiting.instruction};
        next = waiting.awaited != 0 ? unwrap(copy, waiting.awaited) : 0;
    }
    /* Where the innermost one has not moved, none has. */
    if (out->count == 0 || !read_waiting(copy, at, &again) || again.instruction != waiting.instruction)
        return false;
    for (uint32_t i = 0, j = out->count - 1; i < j; i++, j--) {
        struct stack_frame frame = out->frame[i];
        out->frame[i] = out->frame[j];
        out->frame[j] = frame;
    }
    return !reader_any_died(out, deaths);
}
