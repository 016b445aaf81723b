/*
 * A probe for the tests of the reader: samples one thread from a raw pthread that never takes the GIL, while
 * Python code runs, and tells what it saw as text. Built for each interpreter from the very files of
 * runtime/cpython/.
 *
 *   check()                       reader_check; RuntimeError with its reason
 *   watch()                       codes_watch
 *   deaths()                      codes_deaths
 *   start(interval_us, damage=0)  sample the calling thread; 0: without a pause. `damage`: of each 1000
 * copies, so many get random words written into them stop() -> dict                what was seen since
 *   describe(code) -> (file, qualname, [line of each code unit])
 *   threads() -> [(tid, id)]      of all interpreters
 *   waits(tid)                    reader_waits_for_gil
 *   forked()                      in the child of a fork: drop what is the parent's
 *   cost(reads) -> ns             CPU a warm read of the calling thread's own stack takes, as the least of
 * several rounds
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "runtime/cpython/layout.h"
#include "runtime/cpython/reader.h"
#include "shm/clock.h"
#include "shm/fault.h"

enum {
    STACKS = 1 << 16, /* distinct stacks that are told apart */
    TEXT_MOST = 1 << 20,
};

struct seen {
    char *text; /* frames leaf first, '\n' between */
    uint32_t flags;
    uint64_t count;
};

static struct {
    pthread_t thread;
    _Atomic bool running;
    bool started, naive;
    uint64_t interval_ns;
    unsigned damage;
    struct reader_thread target;
    struct reader_prediction prediction;
    struct stack stack;
    struct copy copy;
    struct seen *seen;
    char *text;
    _Atomic uint64_t distinct;
    uint64_t reads, unreadable, torn, retries, cpu_ns, holds_gil, gil_is_held, left_out;
    uint64_t random;
} probe;

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
    if (came && probe.damage != 0)
        spoil(out, bytes);
    return came;
}

static void keep(const char *text, uint32_t flags)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325) + flags;
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
            probe.distinct++;
        }
        if (seen->flags == flags && strcmp(seen->text, text) == 0) {
            seen->count++;
            return;
        }
    }
}

/* Follow the frames one by one and believe everything. */
static bool read_naively(struct stack *out)
{
    uintptr_t at = probe.target.tstate;
    out->count = out->flags = out->retries = 0;
    codes_begin();
#if HEAP_FRAMES
    if (!copy_piece(&probe.copy, at + offsetof(PyThreadState, frame), &at, sizeof at))
        return false;
    while (at != 0 && out->count < STACK_FRAMES) {
        PyFrameObject frame;
        if (!copy_piece(&probe.copy, at, &frame, FRAME_HEAD))
            return false;
        struct code *code = codes_find(&probe.copy, (uintptr_t)frame.f_code, NULL);
        if (code == NULL)
            return false;
        out->frame[out->count++] = (struct stack_frame){code, 0};
        at = (uintptr_t)frame.f_back;
    }
#else
#if LEAF_THROUGH_CFRAME
    if (!copy_piece(&probe.copy, at + offsetof(PyThreadState, cframe), &at, sizeof at) ||
        !copy_piece(&probe.copy, at + offsetof(_PyCFrame, current_frame), &at, sizeof at))
        return false;
#else
    if (!copy_piece(&probe.copy, at + offsetof(PyThreadState, current_frame), &at, sizeof at))
        return false;
#endif
    while (at != 0 && out->count < STACK_FRAMES) {
        _PyInterpreterFrame frame;
        if (!copy_piece(&probe.copy, at, &frame, FRAME_HEAD))
            return false;
        struct code *code = codes_find(&probe.copy, frame_executable(&frame), NULL);
        if (!frame_is_entry(&frame) && code == NULL)
            return false;
        if (code != NULL)
            out->frame[out->count++] = (struct stack_frame){code, 0};
        at = (uintptr_t)frame.previous;
    }
#endif
    return out->count > 0;
}

static void sample(void)
{
    struct reader_facts facts = {0};
    uint64_t before = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
    bool read = probe.naive
                    ? read_naively(&probe.stack)
                    : reader_read(&probe.copy, &probe.target, &probe.prediction, &probe.stack, &facts);
    probe.cpu_ns += clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - before;
    probe.reads++;
    probe.retries += probe.stack.retries;
    probe.holds_gil += facts.holds_gil;
    probe.gil_is_held += facts.gil_is_held;
    if (!read) {
        probe.unreadable++;
        return;
    }
    probe.torn += probe.stack.flags & STACK_TORN;
    size_t used = 0;
    for (uint32_t i = 0; i < probe.stack.count; i++) {
        const struct code *code = probe.stack.frame[i].code;
        int n = snprintf(probe.text + used, TEXT_MOST - used, "%s%s:%s:%u", i == 0 ? "" : "\n", code->file,
                         code->name, code_line(code, probe.stack.frame[i].instruction));
        if (n < 0 || (size_t)n >= TEXT_MOST - used)
            break;
        used += (size_t)n;
    }
    keep(probe.text, probe.stack.flags);
    codes_sweep();
}

static void *run(void *unused)
{
    (void)unused;
    while (atomic_load(&probe.running)) {
        sample();
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
    if (probe.seen == NULL || probe.text == NULL) {
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
    int naive = 0;
    if (!PyArg_ParseTuple(args, "d|Ip", &interval_us, &damage, &naive))
        return NULL;
    if (probe.started) {
        PyErr_SetString(PyExc_RuntimeError, "already sampling");
        return NULL;
    }
    if (prepare() != 0)
        return NULL;
    codes_after_fork(); /* each run starts with an empty table */
    memset(&probe.prediction, 0, sizeof probe.prediction);
    probe.distinct = 0;
    probe.reads = probe.unreadable = probe.torn = probe.retries = probe.cpu_ns = 0;
    probe.holds_gil = probe.gil_is_held = probe.left_out = 0;
    probe.interval_ns = (uint64_t)(interval_us * 1000);
    probe.random = UINT64_C(88172645463325252);
    reader_note_thread(&probe.target);
    probe.damage = damage;
    probe.naive = naive;
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
            "(NIK)", PyUnicode_DecodeUTF8(seen->text, (Py_ssize_t)strlen(seen->text), "replace"), seen->flags,
            (unsigned long long)seen->count);
        if (one == NULL || PyList_Append(stacks, one) != 0)
            Py_CLEAR(stacks);
        Py_XDECREF(one);
        free(seen->text);
        *seen = (struct seen){0};
    }
    if (stacks == NULL)
        return NULL;
    return Py_BuildValue(
        "{s:N,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K}", "stacks", stacks, "reads", (unsigned long long)probe.reads,
        "unreadable", (unsigned long long)probe.unreadable, "torn", (unsigned long long)probe.torn, "retries",
        (unsigned long long)probe.retries, "cpu_ns", (unsigned long long)probe.cpu_ns, "holds_gil",
        (unsigned long long)probe.holds_gil, "gil_is_held", (unsigned long long)probe.gil_is_held, "left_out",
        (unsigned long long)probe.left_out);
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
    const struct reader_thread thread = {.tid = tid};
    return PyLong_FromLong(reader_waits_for_gil(&thread));
}

static PyObject *probe_forked(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    copy_forget(&probe.copy);
    codes_after_fork();
    probe.started = false;
    Py_RETURN_NONE;
}

static PyObject *probe_cost(PyObject *self, PyObject *args)
{
    (void)self;
    int reads;
    if (!PyArg_ParseTuple(args, "i", &reads) || prepare() != 0)
        return NULL;
    struct reader_thread thread;
    struct reader_facts facts;
    reader_note_thread(&thread);
    memset(&probe.prediction, 0, sizeof probe.prediction);
    uint64_t least = UINT64_MAX;
    for (int round = 0; round < 10; round++) {
        uint64_t before = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
        for (int i = 0; i < reads; i++)
            reader_read(&probe.copy, &thread, &probe.prediction, &probe.stack, &facts);
        uint64_t took = clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - before;
        least = took < least ? took : least;
    }
    return Py_BuildValue("(dI)", (double)least / reads, probe.stack.count);
}

static PyMethodDef methods[] = {
    {"check", probe_check, METH_NOARGS, NULL},   {"watch", probe_watch, METH_NOARGS, NULL},
    {"deaths", probe_deaths, METH_NOARGS, NULL}, {"start", probe_start, METH_VARARGS, NULL},
    {"stop", probe_stop, METH_NOARGS, NULL},     {"distinct", probe_distinct, METH_NOARGS, NULL},
    {"describe", probe_describe, METH_O, NULL},  {"threads", probe_threads, METH_NOARGS, NULL},
    {"waits", probe_waits, METH_VARARGS, NULL},  {"forked", probe_forked, METH_NOARGS, NULL},
    {"cost", probe_cost, METH_VARARGS, NULL},    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_readerprobe", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__readerprobe(void);
PyMODINIT_FUNC PyInit__readerprobe(void)
{
    return PyModule_Create(&module);
}
