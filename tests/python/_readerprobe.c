/*
 * A probe for the tests of the reader: samples one thread (or all) from a raw pthread that never takes the
 * GIL, while Python code runs, and tells what it saw as text. Built for each interpreter from the very files
 * of runtime/cpython/.
 *
 * - check(): reader_check; RuntimeError with its reason
 * - watch(): codes_watch
 * - deaths(): codes_deaths
 * - mark: memory of one uint32 in which the sampled program notes what it is about to do: a kind in the low
 *   eight bits, and above them a number that is new each time
 * - start(interval_us, how="reader", damage=0): sample the calling thread; 0: without a pause. `damage`: of
 *   each 1000 copies, so many get random words written into them. `how`: "reader"; "threads": every thread
 *   that is listed; "naive": frame by frame, unchecked; "rejecting": the reader, but what it says counts only
 *   if the leaf is the same afterwards
 * - reads(): how many samples were taken since start()
 * - stop() -> dict: what was seen since
 * - describe(code) -> (file, qualname, [line of each code unit])
 * - strays(code) -> the first code unit from which another code object, or none, is found around it; -1: none
 * - threads() -> [(tid, id)]: of all interpreters
 * - waits(tid) -> 1: for the GIL, 0: for something else, 2: it runs, -1: not to be told
 * - forked(): in the child of a fork: drop what is the parent's
 * - still(reads) -> (gathers, pieces, frames): how many copies so many warm reads of the calling thread's own
 *   stack take
 * - context(variable, rounds, damage): what the variable's value is found to be in the current context
 * without the C API -> (how often it was this one's, another, unset, unreadable)
 * - suspended(reference, rounds, damage) -> [(qualname, line)], innermost first, of the coroutine that the
 * weak reference refers to, as last read; [] if it is not suspended
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "runtime/cpython/code_table.h"
#include "runtime/cpython/context.h"
#include "runtime/cpython/layout.h"
#include "runtime/cpython/reader.h"
#include "runtime/cpython/suspended.h"
#include "runtime/kernel_wait.h"
#include "runtime/place.h"
#include "shm/clock.h"
#include "shm/fault.h"

enum {
    WIDENED_NS = 30000,  /* how far the sampled thread gets in the moment in which a mutant can go wrong */
    WIDENED_MOST = 1000, /* sleeps of that length after which it is taken for blocked */
    STACKS = 1 << 16,    /* distinct stacks that are told apart */
    TEXT_MOST = 1 << 20,
    THREADS = 256,
    REJECTIONS = 4, /* after which a sample of HOW_REJECTING is given up */
};

enum how { HOW_READER, HOW_THREADS, HOW_NAIVE, HOW_REJECTING };
static const char *const how_names[] = {"reader", "threads", "naive", "rejecting", NULL};

struct seen {
    char *text; /* frames leaf first, '\n' between; empty: nothing could be read */
    uint32_t flags;
    uint8_t kind; /* what the mark said before the read */
    bool settled; /* and nothing else afterwards */
    uint64_t count;
};

/* What HOW_THREADS keeps of each thread. */
struct known {
    struct reader_thread thread;
    struct reader_prediction prediction;
};

static struct {
    pthread_t thread;
    _Atomic bool running;
    bool started;
    enum how how;
    uint64_t interval_ns;
    unsigned damage;
    struct reader_thread target;
    uintptr_t target_place; /* 0: it is not followed */
    struct reader_prediction prediction;
    struct stack stack;
    struct copy copy;
    struct seen *seen;
    char *text;
    struct known *known;
    _Atomic uint64_t distinct, reads;
    uint64_t unreadable, torn, retries, holds_gil, gil_is_held, left_out;
    uint64_t its_clock;       /* of the sampled thread at the last sample */
    uint64_t gathers, pieces; /* calls of copy_gather and copy_piece */
    uint64_t random;
} probe;
static _Atomic uint32_t mark;

ssize_t __real_copy_gather(struct copy *copy, const struct iovec *pieces, int count);
bool __real_copy_piece(struct copy *copy, uintptr_t address, void *out, size_t bytes);
ssize_t __wrap_copy_gather(struct copy *copy, const struct iovec *pieces, int count);
bool __wrap_copy_piece(struct copy *copy, uintptr_t address, void *out, size_t bytes);

static uint64_t draw(void)
{
    probe.random ^= probe.random << 13;
    probe.random ^= probe.random >> 7;
    probe.random ^= probe.random << 17;
    return probe.random;
}

/* Write a few words that are wrong in the ways in which memory is wrong: random, near, null, a little off. */
static void spoil(uint8_t *bytes, size_t count)
{
    if (probe.damage == 0 || draw() % 1000 >= probe.damage || count < 8)
        return;
    for (uint64_t n = 1 + draw() % 4; n > 0; n--) {
        uint64_t word, *at = (uint64_t *)(void *)(bytes + draw() % (count / 8) * 8);
        memcpy(&word, at, sizeof word);
        switch (draw() % 5) {
        case 0:
            word = draw();
            break;
        case 1:
            word = 0;
            break;
        case 2:
            word += draw() % 64 * 8;
            break;
        case 3:
            word ^= UINT64_C(1) << draw() % 64;
            break;
        default:
            memcpy(&word, bytes + draw() % (count / 8) * 8, sizeof word);
        }
        memcpy(at, &word, sizeof word);
    }
}

ssize_t __wrap_copy_gather(struct copy *copy, const struct iovec *pieces, int count)
{
    ssize_t got = __real_copy_gather(copy, pieces, count);
    probe.gathers++;
    if (probe.damage != 0 && got > 0) {
        if (draw() % 1000 < probe.damage / 8)
            return (ssize_t)(draw() % (uint64_t)(got + 1));
        /* The scratch is mapped for reading only: write to it as the copy does. */
        static uint8_t spoiled[COPY_BYTES];
        memcpy(spoiled, copy->bytes, (size_t)got);
        spoil(spoiled, (size_t)got);
        struct iovec whole = {spoiled, (size_t)got};
        return __real_copy_gather(copy, &whole, 1);
    }
    return got;
}

bool __wrap_copy_piece(struct copy *copy, uintptr_t address, void *out, size_t bytes)
{
    bool came = __real_copy_piece(copy, address, out, bytes);
    probe.pieces++;
    if (came && probe.damage != 0)
        spoil(out, bytes);
    return came;
}

static void keep(const char *text, uint32_t flags, uint8_t kind, bool settled)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325) + flags + ((uint64_t)kind << 8) + ((uint64_t)settled << 16);
    for (const char *c = text; *c != 0; c++)
        hash = (hash ^ (uint8_t)*c) * UINT64_C(0x100000001b3);
    for (uint64_t i = hash % STACKS;; i = (i + 1) % STACKS) {
        struct seen *seen = &probe.seen[i];
        if (seen->text == NULL) {
            if (probe.distinct == STACKS / 2) {
                probe.left_out++;
                return;
            }
            seen->text = strdup(text);
            seen->flags = flags;
            seen->kind = kind;
            seen->settled = settled;
            probe.distinct++;
        }
        if (seen->flags == flags && seen->kind == kind && seen->settled == settled &&
            strcmp(seen->text, text) == 0) {
            seen->count++;
            return;
        }
    }
}

/* Where the thread's leaf frame is now; 0: nowhere. */
static uintptr_t leaf_now(const struct reader_thread *thread)
{
    uintptr_t at = thread->tstate;
#if HEAP_FRAMES
    bool read = copy_piece(&probe.copy, at + offsetof(PyThreadState, frame), &at, sizeof at);
#elif LEAF_THROUGH_CFRAME
    bool read = copy_piece(&probe.copy, at + offsetof(PyThreadState, cframe), &at, sizeof at) &&
                copy_piece(&probe.copy, at + offsetof(_PyCFrame, current_frame), &at, sizeof at);
#else
    bool read = copy_piece(&probe.copy, at + offsetof(PyThreadState, current_frame), &at, sizeof at);
#endif
    return read ? at : 0;
}

/* The CPU clock of a thread of this process: clock_getres(2). */
static uint64_t cpu_ns(const struct reader_thread *thread)
{
    return clock_read_ns((clockid_t)((~(unsigned)thread->tid << 3) | 6));
}

/* Let the sampled thread go on, however busy the machine is. */
static void widen(const struct reader_thread *thread)
{
    const struct timespec time = {0, WIDENED_NS};
    const uint64_t before = cpu_ns(thread);
    for (int i = 0; i < WIDENED_MOST && cpu_ns(thread) - before < WIDENED_NS; i++)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
}

/* Follow the frames one by one and believe everything. */
static bool read_naively(const struct reader_thread *thread, struct stack *out)
{
    uintptr_t at = leaf_now(thread);
    out->count = out->flags = out->retries = 0;
    codes_begin();
    widen(thread);
    while (at != 0 && out->count < STACK_FRAMES) {
#if HEAP_FRAMES
        PyFrameObject frame;
        if (!copy_piece(&probe.copy, at, &frame, FRAME_HEAD))
            return false;
        struct code *code = codes_find(&probe.copy, (uintptr_t)frame.f_code, NULL);
        if (code == NULL)
            return false;
        at = (uintptr_t)frame.f_back;
#else
        _PyInterpreterFrame frame;
        if (!copy_piece(&probe.copy, at, &frame, FRAME_HEAD))
            return false;
        struct code *code = codes_find(&probe.copy, frame_executable(&frame), NULL);
        if (!frame_is_entry(&frame) && code == NULL)
            return false;
        at = (uintptr_t)frame.previous;
#endif
        if (code != NULL)
            out->frame[out->count++] = (struct stack_frame){code, 0};
    }
    return out->count > 0;
}

/* Believe only what was read while the leaf stayed where it was: whole stacks, but mostly of leaves that
 * stay. */
static bool read_rejecting(const struct reader_thread *thread, struct reader_prediction *prediction,
                           struct stack *out, struct reader_facts *facts)
{
    for (int i = 0; i < REJECTIONS; i++) {
        uintptr_t before = leaf_now(thread);
        bool read = reader_read(&probe.copy, thread, prediction, out, facts);
        widen(thread);
        if (read && leaf_now(thread) == before)
            return true;
    }
    return false;
}

static void sample(const struct reader_thread *thread, struct reader_prediction *prediction)
{
    struct reader_facts facts = {0};
    bool read = false;
    const uint32_t before = atomic_load_explicit(&mark, memory_order_acquire);
    /* A marked program that waits for a core would make many samples of one moment. */
    if (before != 0 && probe.how != HOW_THREADS) {
        const uint64_t its_clock = cpu_ns(thread);
        if (its_clock == probe.its_clock)
            return;
        probe.its_clock = its_clock;
    }
    switch (probe.how) {
    case HOW_READER:
    case HOW_THREADS:
        read = reader_read(&probe.copy, thread, prediction, &probe.stack, &facts);
        break;
    case HOW_NAIVE:
        read = read_naively(thread, &probe.stack);
        break;
    case HOW_REJECTING:
        read = read_rejecting(thread, prediction, &probe.stack, &facts);
        break;
    }
    atomic_thread_fence(memory_order_acquire);
    const bool settled = atomic_load_explicit(&mark, memory_order_relaxed) == before;
    probe.retries += probe.stack.retries;
    probe.holds_gil += facts.holds_gil;
    probe.gil_is_held += facts.gil_is_held;
    size_t used = 0;
    if (read) {
        const uint64_t now = clock_monotonic_ns();
        probe.torn += probe.stack.flags & STACK_TORN;
        place_note_stack((probe.stack.flags & STACK_TORN) != 0, now);
        if (facts.holds_gil)
            place_follow(&probe.copy, probe.target_place, probe.interval_ns, now);
    } else {
        probe.unreadable++;
        probe.stack.count = probe.stack.flags = 0;
    }
    probe.text[0] = 0;
    for (uint32_t i = 0; i < probe.stack.count; i++) {
        const struct code *code = probe.stack.frame[i].code;
        int n = snprintf(probe.text + used, TEXT_MOST - used, "%s%s:%s:%u", i == 0 ? "" : "\n", code->file,
                         code->name, code_line(code, probe.stack.frame[i].instruction));
        if (n < 0 || (size_t)n >= TEXT_MOST - used)
            break;
        used += (size_t)n;
    }
    keep(probe.text, probe.stack.flags, (uint8_t)before, settled);
    codes_sweep();
    probe.reads++;
}

/* Every thread that is listed now, each with what its last stack foretells. */
static void sample_all(void)
{
    static struct reader_thread listed[THREADS];
    const int count = reader_list_threads(&probe.copy, listed, THREADS);
    for (int i = 0; i < count; i++) {
        struct known *known = &probe.known[i];
        if (known->thread.tstate != listed[i].tstate || known->thread.tstate_id != listed[i].tstate_id) {
            known->thread = listed[i];
            memset(&known->prediction, 0, sizeof known->prediction);
        }
        sample(&known->thread, &known->prediction);
    }
}

static void *run(void *unused)
{
    (void)unused;
    place_begin();
    while (atomic_load(&probe.running)) {
        if (probe.how == HOW_THREADS)
            sample_all();
        else
            sample(&probe.target, &probe.prediction);
        if (probe.interval_ns != 0) {
            uint64_t pause = probe.interval_ns / 2 + draw() % probe.interval_ns;
            struct timespec time = {(time_t)(pause / NS_PER_SECOND), (long)(pause % NS_PER_SECOND)};
            clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
        }
    }
    return NULL;
}

static PyObject *raise_fault(void)
{
    PyErr_SetString(PyExc_RuntimeError, fault_text());
    return NULL;
}

static PyObject *probe_check(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    if (reader_check() != 0)
        return raise_fault();
    Py_RETURN_NONE;
}

static PyObject *probe_watch(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    if (codes_watch() != 0)
        return raise_fault();
    Py_RETURN_NONE;
}

static PyObject *probe_deaths(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return PyLong_FromUnsignedLongLong(codes_deaths());
}

static int prepare(void)
{
    if (codes_open() != 0 || (probe.copy.bytes == NULL && copy_open(&probe.copy) != 0)) {
        raise_fault();
        return -1;
    }
    if (probe.seen == NULL)
        probe.seen = PyMem_RawCalloc(STACKS, sizeof *probe.seen);
    if (probe.text == NULL)
        probe.text = PyMem_RawMalloc(TEXT_MOST);
    if (probe.known == NULL)
        probe.known = PyMem_RawCalloc(THREADS, sizeof *probe.known);
    if (probe.seen == NULL || probe.text == NULL || probe.known == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static PyObject *probe_start(PyObject *self, PyObject *args)
{
    (void)self;
    double interval_us;
    unsigned damage = 0;
    const char *name = how_names[HOW_READER];
    if (!PyArg_ParseTuple(args, "d|sI", &interval_us, &name, &damage))
        return NULL;
    int how = 0;
    while (how_names[how] != NULL && strcmp(how_names[how], name) != 0)
        how++;
    if (how_names[how] == NULL) {
        PyErr_SetString(PyExc_ValueError, "no such way to sample");
        return NULL;
    }
    if (probe.started) {
        PyErr_SetString(PyExc_RuntimeError, "already sampling");
        return NULL;
    }
    if (prepare() != 0)
        return NULL;
    codes_after_fork(); /* each run starts with an empty table */
    memset(&probe.prediction, 0, sizeof probe.prediction);
    memset(probe.known, 0, THREADS * sizeof *probe.known);
    probe.distinct = probe.reads = 0;
    probe.unreadable = probe.torn = probe.retries = 0;
    probe.holds_gil = probe.gil_is_held = probe.left_out = 0;
    probe.interval_ns = (uint64_t)(interval_us * 1000);
    probe.random = UINT64_C(88172645463325252);
    reader_note_thread(&probe.target);
    /* As the sampler does. But on one CPU with it, one that never pauses takes turns of milliseconds. */
    probe.target_place = how == HOW_READER && probe.interval_ns != 0 ? place_here() : 0;
    probe.damage = damage;
    probe.how = (enum how)how;
    probe.its_clock = 0;
    atomic_store(&mark, 0);
    atomic_store(&probe.running, true);
    if (pthread_create(&probe.thread, NULL, run, NULL) != 0) {
        PyErr_SetString(PyExc_RuntimeError, "no thread");
        return NULL;
    }
    probe.started = true;
    Py_RETURN_NONE;
}

static PyObject *probe_distinct(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return PyLong_FromUnsignedLongLong(atomic_load_explicit(&probe.distinct, memory_order_relaxed));
}

static PyObject *probe_reads(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return PyLong_FromUnsignedLongLong(atomic_load_explicit(&probe.reads, memory_order_relaxed));
}

static PyObject *probe_stop(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    if (!probe.started) {
        PyErr_SetString(PyExc_RuntimeError, "not sampling");
        return NULL;
    }
    atomic_store(&probe.running, false);
    Py_BEGIN_ALLOW_THREADS pthread_join(probe.thread, NULL);
    Py_END_ALLOW_THREADS probe.started = false;
    probe.damage = 0;
    PyObject *stacks = PyList_New(0);
    for (int i = 0; i < STACKS && stacks != NULL; i++) {
        struct seen *seen = &probe.seen[i];
        if (seen->text == NULL)
            continue;
        PyObject *one = Py_BuildValue(
            "(NIKBN)", PyUnicode_DecodeUTF8(seen->text, (Py_ssize_t)strlen(seen->text), "replace"),
            seen->flags, (unsigned long long)seen->count, seen->kind, PyBool_FromLong(seen->settled));
        if (one == NULL || PyList_Append(stacks, one) != 0)
            Py_CLEAR(stacks);
        Py_XDECREF(one);
        free(seen->text);
        *seen = (struct seen){0};
    }
    if (stacks == NULL)
        return NULL;
    return Py_BuildValue(
        "{s:N,s:K,s:K,s:K,s:K,s:K,s:K,s:K}", "stacks", stacks, "reads", (unsigned long long)probe.reads,
        "unreadable", (unsigned long long)probe.unreadable, "torn", (unsigned long long)probe.torn, "retries",
        (unsigned long long)probe.retries, "holds_gil", (unsigned long long)probe.holds_gil, "gil_is_held",
        (unsigned long long)probe.gil_is_held, "left_out", (unsigned long long)probe.left_out);
}

static PyObject *probe_describe(PyObject *self, PyObject *object)
{
    (void)self;
    if (prepare() != 0)
        return NULL;
    codes_begin();
    const struct code *code = codes_find(&probe.copy, (uintptr_t)object, NULL);
    if (code == NULL)
        Py_RETURN_NONE;
    PyObject *lines = PyList_New(code->instructions);
    for (uint32_t i = 0; lines != NULL && i < code->instructions; i++)
        PyList_SET_ITEM(lines, i, PyLong_FromUnsignedLong(code_line(code, i)));
    return lines == NULL
               ? NULL
               : Py_BuildValue("(NNN)",
                               PyUnicode_DecodeUTF8(code->file, (Py_ssize_t)strlen(code->file), NULL),
                               PyUnicode_DecodeUTF8(code->name, (Py_ssize_t)strlen(code->name), NULL), lines);
}

/* The first instruction of a code object from which another one, or none, is found around it; -1: there is no
 * such. Where frames do not forget their code nothing is ever looked for so. */
static PyObject *probe_strays(PyObject *self, PyObject *object)
{
    (void)self;
    if (prepare() != 0)
        return NULL;
#ifdef FRAMES_FORGET_CODE
    for (Py_ssize_t i = 0; i < Py_SIZE(object); i++) {
        const uintptr_t instruction = (uintptr_t)object + CODE_HEAD + (size_t)i * sizeof(_Py_CODEUNIT);
        if (code_around(&probe.copy, instruction) != (uintptr_t)object)
            return PyLong_FromSsize_t(i);
    }
#else
    (void)object;
#endif
    return PyLong_FromLong(-1);
}

static PyObject *probe_threads(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    static struct reader_thread threads[256];
    if (prepare() != 0)
        return NULL;
    int count = reader_list_threads(&probe.copy, threads, 256);
    PyObject *list = PyList_New(0);
    for (int i = 0; i < count && list != NULL; i++) {
        PyObject *one = Py_BuildValue("(iK)", threads[i].tid, (unsigned long long)threads[i].tstate_id);
        if (one == NULL || PyList_Append(list, one) != 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

static PyObject *probe_waits(PyObject *self, PyObject *args)
{
    (void)self;
    int tid;
    if (!PyArg_ParseTuple(args, "i", &tid))
        return NULL;
    uintptr_t word = 0;
    switch (kernel_wait_of(tid, &word)) {
    case KERNEL_WAIT_UNKNOWN:
        return PyLong_FromLong(-1);
    case KERNEL_WAIT_NONE:
        return PyLong_FromLong(2);
    default:
        return PyLong_FromLong(reader_gil_has(word));
    }
}

static PyObject *probe_forked(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    copy_forget(&probe.copy);
    codes_after_fork();
    probe.started = false;
    Py_RETURN_NONE;
}

static PyObject *probe_still(PyObject *self, PyObject *args)
{
    (void)self;
    int reads;
    if (!PyArg_ParseTuple(args, "i", &reads) || prepare() != 0)
        return NULL;
    struct reader_thread thread;
    struct reader_facts facts;
    reader_note_thread(&thread);
    memset(&probe.prediction, 0, sizeof probe.prediction);
    for (int i = 0; i < 10; i++) /* until all is known */
        reader_read(&probe.copy, &thread, &probe.prediction, &probe.stack, &facts);
    probe.gathers = probe.pieces = 0;
    for (int i = 0; i < reads; i++)
        reader_read(&probe.copy, &thread, &probe.prediction, &probe.stack, &facts);
    return Py_BuildValue("(KKI)", (unsigned long long)probe.gathers, (unsigned long long)probe.pieces,
                         probe.stack.count);
}

static PyObject *probe_context(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *variable, *value = NULL;
    int rounds;
    unsigned long long counts[4] = {0};
    if (!PyArg_ParseTuple(args, "OiI", &variable, &rounds, &probe.damage) || prepare() != 0)
        return NULL;
    if (PyContextVar_Get(variable, NULL, &value) != 0 || context_watch(variable, Py_TYPE(variable)) != 0)
        return NULL;
    bool entered;
    const uintptr_t context = context_here(&entered);
    probe.random = 88172645463325252u;
    for (int i = 0; i < rounds; i++) {
        struct context_look look;
        switch (context_find(&probe.copy, (uintptr_t)PyInterpreterState_Get(), context, &look)) {
        case CONTEXT_SET:
            counts[look.value != (uintptr_t)value]++;
            break;
        case CONTEXT_UNSET:
            counts[2]++;
            break;
        default:
            counts[3]++;
        }
    }
    probe.damage = 0;
    context_unwatch(variable);
    Py_XDECREF(value);
    return Py_BuildValue("(KKKK)", counts[0], counts[1], counts[2], counts[3]);
}

static PyObject *probe_suspended(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *reference, *list = PyList_New(0);
    int rounds;
    bool found = false;
    if (!PyArg_ParseTuple(args, "OiI", &reference, &rounds, &probe.damage) || prepare() != 0 || list == NULL)
        return NULL;
    probe.random = 88172645463325252u;
    for (int i = 0; i < rounds; i++)
        found = reader_read_suspended(&probe.copy, (uintptr_t)reference, &probe.stack);
    probe.damage = 0;
    for (uint32_t i = 0; found && i < probe.stack.count; i++) {
        const struct stack_frame *frame = &probe.stack.frame[i];
        PyObject *one = Py_BuildValue(
            "(NI)", PyUnicode_DecodeUTF8(frame->code->name, (Py_ssize_t)strlen(frame->code->name), "replace"),
            code_line(frame->code, frame->instruction));
        if (one == NULL || PyList_Append(list, one) != 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
        if (list == NULL)
            return NULL;
    }
    return list;
}

static PyMethodDef methods[] = {
    {"check", probe_check, METH_NOARGS, NULL},
    {"watch", probe_watch, METH_NOARGS, NULL},
    {"deaths", probe_deaths, METH_NOARGS, NULL},
    {"start", probe_start, METH_VARARGS, NULL},
    {"stop", probe_stop, METH_NOARGS, NULL},
    {"distinct", probe_distinct, METH_NOARGS, NULL},
    {"describe", probe_describe, METH_O, NULL},
    {"strays", probe_strays, METH_O, NULL},
    {"threads", probe_threads, METH_NOARGS, NULL},
    {"waits", probe_waits, METH_VARARGS, NULL},
    {"forked", probe_forked, METH_NOARGS, NULL},
    {"still", probe_still, METH_VARARGS, NULL},
    {"reads", probe_reads, METH_NOARGS, NULL},
    {"context", probe_context, METH_VARARGS, NULL},
    {"suspended", probe_suspended, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_readerprobe", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__readerprobe(void);
PyMODINIT_FUNC PyInit__readerprobe(void)
{
    place_open();
    PyObject *made = PyModule_Create(&module);
    PyObject *bytes = PyMemoryView_FromMemory((char *)&mark, sizeof mark, PyBUF_WRITE);
    PyObject *words = bytes == NULL ? NULL : PyObject_CallMethod(bytes, "cast", "s", "I");
    Py_XDECREF(bytes);
    if (made == NULL || words == NULL || PyModule_AddObject(made, "mark", words) != 0) {
        Py_XDECREF(words);
        Py_CLEAR(made);
    }
    return made;
}
