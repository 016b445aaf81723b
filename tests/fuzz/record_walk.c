/*
 * Recording of walk images (walk_image.h) from a live interpreter: an extension module, built and used by
 * tests/fuzz/record_walk from the files of runtime/cpython/ as they are, with their copies wrapped.
 *
 *   record(path, reads)     read the calling thread's own stack, and list all threads; write what was read
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>
#include <string.h>

#include "runtime/cpython/layout.h"
#include "runtime/cpython/reader.h"
#include "runtime/cpython/reader_start.h"
#include "shm/fault.h"
#include "tests/fuzz/walk_image.h"

enum {
    PIECES = 1 << 16,
    GRANULES = 4096,
    LARGE = 16 << 10, /* 3.10 looks for frames in blocks of this size, else for one alone: that is smaller */
};

struct piece {
    uintptr_t at, end;
};

static struct {
    bool on;
    struct piece piece[PIECES];
    int pieces;
    uintptr_t granule[GRANULES]; /* ascending */
    int granules;
} tape;

ssize_t __real_copy_gather(struct copy *copy, const struct iovec *pieces, int count);
bool __real_copy_piece(struct copy *copy, uintptr_t address, void *out, size_t bytes);
ssize_t __wrap_copy_gather(struct copy *copy, const struct iovec *pieces, int count);
bool __wrap_copy_piece(struct copy *copy, uintptr_t address, void *out, size_t bytes);

static void note(uintptr_t address, size_t bytes)
{
    if (tape.on && tape.pieces < PIECES)
        tape.piece[tape.pieces++] =
            (struct piece){address & ~(uintptr_t)7, (address + bytes + 7) & ~(uintptr_t)7};
}

ssize_t __wrap_copy_gather(struct copy *copy, const struct iovec *pieces, int count)
{
    ssize_t got = __real_copy_gather(copy, pieces, count);
    size_t asked = 0;
    for (int i = 0; i < count; i++) {
        asked += pieces[i].iov_len;
        if (got >= 0 && asked <= (size_t)got)
            note((uintptr_t)pieces[i].iov_base, pieces[i].iov_len);
    }
    return got;
}

bool __wrap_copy_piece(struct copy *copy, uintptr_t address, void *out, size_t bytes)
{
    if (tape.on && bytes >= LARGE)
        return false;
    bool came = __real_copy_piece(copy, address, out, bytes);
    if (came)
        note(address, bytes);
    return came;
}

static int by_address(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

static bool in_runtime(uintptr_t address)
{
    return address - (uintptr_t)&_PyRuntime < sizeof _PyRuntime;
}

static void note_granule(uintptr_t granule)
{
    for (int i = 0; i < tape.granules; i++)
        if (tape.granule[i] == granule)
            return;
    if (tape.granules < GRANULES)
        tape.granule[tape.granules++] = granule;
    for (int i = tape.granules - 1; i > 0 && tape.granule[i - 1] > tape.granule[i]; i--) {
        uintptr_t other = tape.granule[i];
        tape.granule[i] = tape.granule[i - 1];
        tape.granule[i - 1] = other;
    }
}

/* Merge what touches, and number the granules. */
static void settle(void)
{
    qsort(tape.piece, (size_t)tape.pieces, sizeof tape.piece[0], by_address);
    int n = 0;
    for (int i = 0; i < tape.pieces; i++) {
        if (n > 0 && tape.piece[i].at <= tape.piece[n - 1].end) {
            if (tape.piece[i].end > tape.piece[n - 1].end)
                tape.piece[n - 1].end = tape.piece[i].end;
        } else {
            tape.piece[n++] = tape.piece[i];
        }
    }
    tape.pieces = n;
    tape.granules = 0;
    for (int i = 0; i < n; i++)
        for (uintptr_t g = tape.piece[i].at >> WALK_GRANULE_BITS; g <= tape.piece[i].end >> WALK_GRANULE_BITS;
             g++)
            note_granule(g);
}

/* The offset that stands for an address; 0 for none. */
static uint32_t moved(uintptr_t address)
{
    if (in_runtime(address))
        return (uint32_t)WALK_RUNTIME + (uint32_t)(address - (uintptr_t)&_PyRuntime);
    uint32_t place = 1;
    for (int i = 0; i < tape.granules; i++) {
        /* Neighbours stay neighbours; between others there is a gap. */
        place += i > 0 && tape.granule[i] != tape.granule[i - 1] + 1;
        if (tape.granule[i] == address >> WALK_GRANULE_BITS)
            return place << WALK_GRANULE_BITS | (uint32_t)(address & ((1u << WALK_GRANULE_BITS) - 1));
        place++;
    }
    return 0;
}

static uint64_t translate(uint64_t word)
{
    const struct {
        const void *address;
        enum walk_symbol symbol;
    } symbols[] = {
        {&PyCode_Type, WALK_CODE_TYPE},
        {&PyUnicode_Type, WALK_UNICODE_TYPE},
        {&PyBytes_Type, WALK_BYTES_TYPE},
        {&PyFrame_Type, WALK_FRAME_TYPE},
        {interpreter_gil(PyInterpreterState_Main()), WALK_GIL},
    };
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++)
        if (word == (uintptr_t)symbols[i].address)
            return WALK_SYMBOL(symbols[i].symbol);
    uint32_t offset = moved(word);
    return offset != 0 ? WALK_BASE + offset : word;
}

static int write_image(const char *path, const struct reader_thread *thread, int reads)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL)
        return fault(errno, "%s", path);
    struct walk_image image = {
        .regions = (uint8_t)tape.pieces,
        .reads = (uint8_t)reads,
        .gil = 2,
        .tstate = moved(thread->tstate),
        .tstate_id = thread->tstate_id,
        .tstate_native_id = translate(thread->tstate_native_id),
        .interpreter = moved(thread->interpreter),
    };
    fwrite(&image, sizeof image, 1, file);
    for (int i = 0; i < tape.pieces; i++) {
        struct walk_region region = {moved(tape.piece[i].at),
                                     (uint32_t)(tape.piece[i].end - tape.piece[i].at)};
        fwrite(&region, sizeof region, 1, file);
    }
    for (int i = 0; i < tape.pieces; i++)
        for (uintptr_t at = tape.piece[i].at; at < tape.piece[i].end; at += 8) {
            uint64_t word;
            memcpy(&word, (const void *)at, sizeof word);
            word = translate(word);
            fwrite(&word, sizeof word, 1, file);
        }
    return fclose(file) != 0 ? fault(errno, "%s", path) : 0;
}

static PyObject *record(PyObject *self, PyObject *args)
{
    (void)self;
    const char *path;
    int reads;
    static struct copy copy;
    static struct stack stack;
    static struct reader_thread threads[64];
    struct reader_prediction *prediction = PyMem_RawCalloc(1, sizeof *prediction);
    if (prediction == NULL || !PyArg_ParseTuple(args, "si", &path, &reads))
        return NULL;
    struct reader_thread thread;
    struct reader_facts facts;
    int rc = reader_check();
    if (rc == 0 && copy.bytes == NULL)
        rc = copy_open(&copy);
    codes_after_fork();
    reader_note_thread(&thread);
    tape.pieces = 0;
    tape.on = true;
    bool read = rc == 0;
    for (int i = 0; i < reads && read; i++)
        read = reader_read(&copy, &thread, prediction, &stack, &facts) && !(stack.flags & STACK_TORN);
    if (read)
        reader_list_threads(&copy, threads, 64);
    tape.on = false;
    PyMem_RawFree(prediction);
    if (!read)
        return PyErr_Format(PyExc_RuntimeError, "the stack could not be read: %s",
                            rc != 0 ? fault_text() : "torn");
    settle();
    if (tape.pieces > WALK_REGIONS)
        return PyErr_Format(PyExc_RuntimeError, "%d regions", tape.pieces);
    if (write_image(path, &thread, reads) != 0)
        return PyErr_Format(PyExc_RuntimeError, "%s", fault_text());
    return PyLong_FromUnsignedLong(stack.count);
}

static PyMethodDef methods[] = {{"record", record, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_record_walk", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__record_walk(void);
PyMODINIT_FUNC PyInit__record_walk(void)
{
    return PyModule_Create(&module);
}
