/* The stack of a greenlet that is switched out: see greenlet.h. */
#include "runtime/cpython/greenlet.h"

#include <stdatomic.h>

#include "runtime/cpython/code_table.h"
#include "runtime/cpython/layout.h"

#if HEAP_FRAMES
bool greenlet_learn(uintptr_t out, uintptr_t frame, uintptr_t running)
{
    (void)out, (void)frame, (void)running;
    return false;
}

enum greenlet_read greenlet_read(struct copy *copy, uintptr_t reference, struct stack *out)
{
    (void)copy, (void)reference, (void)out;
    return GREENLET_UNKNOWN;
}
#else
enum {
    STATE_AT = 4 * sizeof(void *), /* of the pointer to a greenlet's state, behind its head, its weak
                                      references and its dictionary, as greenlet.h has it */
    PAGE_BYTES = 4096,
};

/* Where in the state the frame is; 0: not known. */
static _Atomic size_t frame_at;

/* The page that was copied last: the frames of a stack lie side by side. */
struct page {
    uintptr_t at; /* 0: none */
    uint8_t bytes[PAGE_BYTES] __attribute__((aligned(8)));
};

static bool read_word(struct copy *copy, uintptr_t address, uintptr_t *out)
{
    return address % sizeof *out == 0 && copy_piece(copy, address, out, sizeof *out);
}

/* ---- with the GIL -------------------------------------------------------------------------------------- */

enum { STATE_WORDS = 32 }; /* of the state that are looked through */

static bool read_state(struct copy *copy, uintptr_t greenlet, uintptr_t words[STATE_WORDS])
{
    uintptr_t state;
    return read_word(copy, greenlet + STATE_AT, &state) &&
           copy_piece(copy, state, words, STATE_WORDS * sizeof *words);
}

bool greenlet_learn(uintptr_t out, uintptr_t frame, uintptr_t running)
{
    struct copy copy = {.fd = -1, .readv = true};
    uintptr_t words[STATE_WORDS], others[STATE_WORDS];
    size_t at = 0, found = 0;
    if (atomic_load_explicit(&frame_at, memory_order_relaxed) != 0)
        return true;
    if (!read_state(&copy, out, words) || !read_state(&copy, running, others))
        return false;
    for (size_t i = 1; i < STATE_WORDS; i++) {
        if (words[i] == frame) {
            at = i;
            found++;
        }
    }
    if (found != 1 || others[at] != 0) /* one that runs holds no frame */
        return false;
    atomic_store_explicit(&frame_at, at * sizeof *words, memory_order_relaxed);
    return true;
}

/* ---- sampler ------------------------------------------------------------------------------------------- */

static const _PyInterpreterFrame *find_frame(struct copy *copy, uintptr_t at, struct page *page)
{
    const uintptr_t start = at & ~(uintptr_t)(PAGE_BYTES - 1);
    if (at % sizeof(void *) != 0)
        return NULL;
    if (at + FRAME_HEAD > start + PAGE_BYTES) { /* it goes on in the next page */
        page->at = 0;
        if (!copy_piece(copy, at, page->bytes, FRAME_HEAD))
            return NULL;
        return (const _PyInterpreterFrame *)(const void *)page->bytes;
    }
    if (page->at != start) {
        page->at = 0;
        if (!copy_piece(copy, start, page->bytes, PAGE_BYTES))
            return NULL;
        page->at = start;
    }
    return (const _PyInterpreterFrame *)(const void *)(page->bytes + (at - start));
}

/* From the innermost frame outwards. greenlet has taken the marks of C calls out of the line, and ended it
 * where the greenlet began. */
static bool walk(struct copy *copy, uintptr_t at, struct stack *out)
{
    struct page page; /* large: an initializer would clear all of it */
    page.at = 0;
    for (int i = 0; at != 0; i++) {
        const _PyInterpreterFrame *frame = find_frame(copy, at, &page);
        if (frame == NULL || frame_is_entry(frame))
            return false;
        if (i == STACK_FRAMES) {
            out->flags |= STACK_TRUNCATED;
            break;
        }
        const uintptr_t address = frame_executable(frame);
        const uintptr_t offset = frame_instruction(frame) - (address + CODE_HEAD);
        at = (uintptr_t)frame->previous;
        struct code *code = codes_find(copy, address, NULL);
        if (code == NULL || offset % sizeof(_Py_CODEUNIT) != 0 ||
            offset / sizeof(_Py_CODEUNIT) >= code->instructions)
            return false;
        if (code->first_traceable < code->instructions) /* else it is the interpreter's own */
            out->frame[out->count++] = (struct stack_frame){code, (uint32_t)(offset / sizeof(_Py_CODEUNIT))};
    }
    return out->count != 0;
}

enum greenlet_read greenlet_read(struct copy *copy, uintptr_t reference, struct stack *out)
{
    const size_t offset = atomic_load_explicit(&frame_at, memory_order_relaxed);
    uintptr_t greenlet, state, held, still;
    PyFrameObject frame;
    if (offset == 0)
        return GREENLET_UNKNOWN;
    const uint64_t deaths = codes_begin();
    out->count = out->flags = out->retries = 0;
    if (!read_word(copy, reference + offsetof(PyWeakReference, wr_object), &greenlet) ||
        !read_word(copy, greenlet + STATE_AT, &state) || !read_word(copy, state + offset, &held) ||
        held % sizeof(void *) != 0 || !copy_piece(copy, held, &frame, offsetof(PyFrameObject, f_trace)) ||
        (uintptr_t)frame.ob_base.ob_type != (uintptr_t)&PyFrame_Type ||
        !walk(copy, (uintptr_t)frame.f_frame, out) || !read_word(copy, state + offset, &still) ||
        still != held || reader_any_died(out, deaths))
        return GREENLET_RUNS;
    return GREENLET_WAITS;
}
#endif
