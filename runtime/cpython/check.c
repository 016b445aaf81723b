/* Is this the interpreter that the extension was built for? See reader_check in reader.h. */
#include "runtime/cpython/reader.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "runtime/cpython/context.h"
#include "runtime/cpython/layout.h"
#include "runtime/cpython/reader_start.h"
#include "shm/fault.h"

#ifdef Py_GIL_DISABLED

int reader_check(void)
{
    return fault(ENOTSUP, "free-threaded builds of CPython are not supported");
}

#else

#if PY_VERSION_HEX >= 0x030d0000
/* Every offset that this interpreter publishes about itself and that is used here. */
static int check_offsets(void)
{
    const _Py_DebugOffsets *said = &_PyRuntime.debug_offsets;
    if (memcmp(said->cookie, _Py_Debug_Cookie, sizeof said->cookie) != 0)
        return fault(EPROTO, "this interpreter has no table of offsets where it should be");
    if (said->free_threaded != 0)
        return fault(ENOTSUP, "free-threaded builds of CPython are not supported");
    const struct {
        const char *name;
        uint64_t said, built;
    } offsets[] = {
        {"interpreters.head", said->runtime_state.interpreters_head,
         offsetof(_PyRuntimeState, interpreters.head)},
        {"finalizing", said->runtime_state.finalizing, offsetof(_PyRuntimeState, _finalizing)},
        {"interpreter.next", said->interpreter_state.next, offsetof(PyInterpreterState, next)},
        {"threads.head", said->interpreter_state.threads_head, offsetof(PyInterpreterState, threads.head)},
        {"ceval.gil", said->interpreter_state.ceval_gil, offsetof(PyInterpreterState, ceval.gil)},
        {"gil.locked", said->interpreter_state.gil_runtime_state_locked,
         offsetof(PyInterpreterState, _gil.locked)},
        {"gil.last_holder", said->interpreter_state.gil_runtime_state_holder,
         offsetof(PyInterpreterState, _gil.last_holder)},
        {"thread.next", said->thread_state.next, offsetof(PyThreadState, next)},
        {"thread.interp", said->thread_state.interp, offsetof(PyThreadState, interp)},
        {"thread.current_frame", said->thread_state.current_frame, offsetof(PyThreadState, current_frame)},
        {"thread.native_thread_id", said->thread_state.native_thread_id,
         offsetof(PyThreadState, native_thread_id)},
        {"thread.datastack_chunk", said->thread_state.datastack_chunk,
         offsetof(PyThreadState, datastack_chunk)},
        {"frame.previous", said->interpreter_frame.previous, offsetof(_PyInterpreterFrame, previous)},
        {"frame.executable", said->interpreter_frame.executable, offsetof(_PyInterpreterFrame, f_executable)},
        {"frame.instr_ptr", said->interpreter_frame.instr_ptr, offsetof(_PyInterpreterFrame, instr_ptr)},
        {"frame.localsplus", said->interpreter_frame.localsplus, offsetof(_PyInterpreterFrame, localsplus)},
        {"frame.owner", said->interpreter_frame.owner, offsetof(_PyInterpreterFrame, owner)},
        {"code.filename", said->code_object.filename, offsetof(PyCodeObject, co_filename)},
        {"code.qualname", said->code_object.qualname, offsetof(PyCodeObject, co_qualname)},
        {"code.linetable", said->code_object.linetable, offsetof(PyCodeObject, co_linetable)},
        {"code.firstlineno", said->code_object.firstlineno, offsetof(PyCodeObject, co_firstlineno)},
        {"code.co_code_adaptive", said->code_object.co_code_adaptive,
         offsetof(PyCodeObject, co_code_adaptive)},
        {"unicode.state", said->unicode_object.state, offsetof(PyASCIIObject, state)},
        {"unicode.length", said->unicode_object.length, offsetof(PyASCIIObject, length)},
        {"unicode.size", said->unicode_object.asciiobject_size, sizeof(PyASCIIObject)},
        {"bytes.ob_sval", said->bytes_object.ob_sval, offsetof(PyBytesObject, ob_sval)},
#if PY_VERSION_HEX >= 0x030e0000
        {"generator.gi_iframe", said->gen_object.gi_iframe, offsetof(PyGenObject, gi_iframe)},
        {"generator.gi_frame_state", said->gen_object.gi_frame_state, offsetof(PyGenObject, gi_frame_state)},
#endif
#ifdef BASE_FRAME
        {"thread.base_frame", said->thread_state.base_frame, offsetof(PyThreadState, base_frame)},
#endif
    };
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        if (offsets[i].said != offsets[i].built)
            return fault(
                EPROTO, "offset of %s is %llu in this interpreter, %llu where the extension was built",
                offsets[i].name, (unsigned long long)offsets[i].said, (unsigned long long)offsets[i].built);
    }
    return 0;
}
#else
static int check_offsets(void)
{
    return 0;
}
#endif

/* What the walk of the calling thread gave, as the callback of the Python code below left it. */
struct self_test {
    struct copy copy;
    struct reader_prediction prediction;
    struct stack stack;
    int calls;
    int error; /* 0 or -errno with fault_text() */
};

static bool same_text(PyObject *text, const char *ours)
{
    Py_ssize_t bytes;
    const char *theirs = PyUnicode_AsUTF8AndSize(text, &bytes);
    if (theirs == NULL) { /* lone surrogates have no UTF-8 */
        PyErr_Clear();
        return true;
    }
    size_t kept = strlen(ours);
    return kept <= (size_t)bytes && memcmp(theirs, ours, kept) == 0 &&
           (kept == (size_t)bytes || kept + 4 > CODE_NAME_MAX || memchr(theirs, 0, (size_t)bytes) != NULL);
}

static int compare(const struct stack *stack)
{
    uint32_t i = 0;
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    int error = 0;
    for (; frame != NULL && error == 0 && i < stack->count; i++) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        const struct code *ours = stack->frame[i].code;
        int line = PyFrame_GetLineNumber(frame);
        if ((uintptr_t)code != ours->address || !same_text(code->co_filename, ours->file) ||
            !same_text(code_qualified_name(code), ours->name) ||
            (line > 0 ? (uint32_t)line : 0) != code_line(ours, stack->frame[i].instruction))
            error = fault(EPROTO, "frame %u was read as %s:%s:%u, but is on line %d of %s", i, ours->file,
                          ours->name, code_line(ours, stack->frame[i].instruction), line,
                          PyUnicode_AsUTF8(code->co_name));
        Py_DECREF(code);
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    if (error == 0 && frame != NULL && !(stack->flags & STACK_TRUNCATED))
        error = fault(EPROTO, "only %u frames were read", i);
    if (error == 0 && frame == NULL && i < stack->count)
        error = fault(EPROTO, "%u frames were read, but there are %u", stack->count, i);
    PyErr_Clear();
    Py_XDECREF(frame);
    return error;
}

static PyObject *read_self(PyObject *capsule, PyObject *unused)
{
    (void)unused;
    struct self_test *test = PyCapsule_GetPointer(capsule, NULL);
    if (test == NULL)
        return NULL;
    struct reader_thread thread;
    struct reader_facts facts;
    reader_note_thread(&thread);
    test->calls++;
    if (test->error != 0)
        Py_RETURN_NONE;
    if (!reader_read(&test->copy, &thread, &test->prediction, &test->stack, &facts))
        test->error = fault(EPROTO, "the calling thread's stack could not be read");
    else if (test->stack.flags & STACK_TORN)
        test->error =
            fault(EPROTO, "the calling thread's stack is not as expected from frame %u of its root on",
                  test->stack.count);
    else if (!facts.holds_gil || !facts.gil_is_held)
        test->error = fault(EPROTO, "the GIL does not say that the calling thread holds it");
    else
        test->error = compare(&test->stack);
    Py_RETURN_NONE;
}

/* Twice through plain calls, a constructor, a call from C, and a generator in a generator: found cold, then
 * predicted. */
static const char program[] = "class Made:\n"
                              "    def __init__(self, read):\n"
                              "        self.value = read()\n"
                              "def inner(read):\n"
                              "    yield Made(read)\n"
                              "    yield from (Made(read) for i in (1,))\n"
                              "def outer(read):\n"
                              "    return (\n"
                              "        list(inner(read)),\n"
                              "        max((1, 2), key=lambda n: read() or n))\n"
                              "outer(read)\n"
                              "outer(read)\n";
enum {
    PROGRAM_READS = 8,
};

/* Run the program on the calling thread. */
static int check_self(struct self_test *test)
{
    static PyMethodDef method = {"read", read_self, METH_NOARGS, NULL};
    PyObject *capsule = NULL, *function = NULL, *names = NULL, *result = NULL;
    memset(&test->prediction, 0, sizeof test->prediction);
    test->calls = test->error = 0;
    codes_after_fork(); /* nobody tells yet which of the last run's code objects have died */
    if ((capsule = PyCapsule_New(test, NULL, NULL)) != NULL &&
        (function = PyCFunction_New(&method, capsule)) != NULL && (names = PyDict_New()) != NULL &&
        PyDict_SetItemString(names, "read", function) == 0 &&
        PyDict_SetItemString(names, "__builtins__", PyEval_GetBuiltins()) == 0 &&
        PyDict_SetItemString(names, "__name__", Py_None) == 0)
        result = PyRun_String(program, Py_file_input, names, names);
    int error = test->error;
    if (error == 0 && (result == NULL || test->calls != PROGRAM_READS))
        error = fault(EPROTO, "the start-up check could not run its Python code");
    PyErr_Clear();
    Py_XDECREF(result);
    if (names != NULL)
        PyDict_Clear(names);
    Py_XDECREF(names);
    Py_XDECREF(function);
    Py_XDECREF(capsule);
    return error;
}

struct other_thread {
    struct self_test *test;
    PyInterpreterState *interpreter;
    int error;
    char text[512]; /* that thread's fault_text() */
};

static void *run_other_thread(void *argument)
{
    struct other_thread *other = argument;
    PyThreadState *tstate = PyThreadState_New(other->interpreter); /* does not need the GIL */
    if (tstate == NULL)
        return NULL;
    PyEval_RestoreThread(tstate);
    reader_find_native_id(&other->test->copy);
    other->error = check_self(other->test);
    if (other->error != 0)
        snprintf(other->text, sizeof other->text, "%s", fault_text());
    PyThreadState_Clear(tstate);
    PyThreadState_DeleteCurrent();
    return NULL;
}

/*
 * The same on a thread of its own: its first chunk, its base and its thread state are not those of the
 * process's first thread. Where no thread can be started now, nothing is checked. It makes its thread state
 * itself: one that another thread made is not known to the GIL-state API as its own, and the allocators of
 * -X dev end a process that allocates so.
 */
static int check_other_thread(struct self_test *test)
{
    struct other_thread other = {.test = test, .interpreter = PyInterpreterState_Get()};
    sigset_t all, before;
    sigfillset(&all); /* the application's signals are not for this thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, run_other_thread, &other);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed == 0) {
        pthread_setname_np(thread, "pom-check");
        Py_BEGIN_ALLOW_THREADS pthread_join(thread, NULL);
        Py_END_ALLOW_THREADS
    }
    if (other.error == 0)
        return 0;
    char *kind = strrchr(other.text, ':'); /* fault() will say it again */
    if (kind != NULL)
        *kind = 0;
    return fault(-other.error, "on a second thread: %s", other.text);
}

static int check_threads(void)
{
    struct self_test *test = PyMem_RawCalloc(1, sizeof *test);
    if (test == NULL)
        return fault(ENOMEM, "no memory for the start-up check");
    /* Other threads may close descriptors meanwhile, or open some. */
    test->copy.no_scratch = true;
    int error = copy_open(&test->copy);
    if (error != 0) {
        test->copy.no_scratch = false;
        error = copy_open(&test->copy);
    }
    if (error == 0)
        error = check_self(test);
    if (error == 0)
        error = check_other_thread(test);
    if (error == 0)
        error = context_check(&test->copy);
    copy_close(&test->copy);
    PyMem_RawFree(test);
    return error;
}

/* sys.hexversion; Py_Version says the same, but only since 3.11. */
static unsigned long running_version(void)
{
    PyObject *version = PySys_GetObject("hexversion"); /* borrowed */
    return version != NULL && PyLong_Check(version) ? PyLong_AsUnsignedLongMask(version) : 0;
}

int reader_check(void)
{
    static bool passed;
    if (passed)
        return 0;
    const unsigned long running = running_version();
    if (running >> 16 != PY_VERSION_HEX >> 16)
        return fault(ENOTSUP, "built for CPython %d.%d, but this is %lu.%lu", PY_MAJOR_VERSION,
                     PY_MINOR_VERSION, running >> 24, running >> 16 & 255);
    int error = check_offsets();
    if (error == 0 && !reader_find_gil())
        error = fault(EPROTO, "the GIL is not where it should be");
    if (error == 0)
        error = codes_open();
    PyObject *type, *value, *traceback; /* an exception that is being handled stays as it is */
    PyErr_Fetch(&type, &value, &traceback);
    if (error == 0) {
        reader_watch_forks();
        error = check_threads();
        codes_after_fork(); /* nothing of the check stays in the table */
    }
    PyErr_Restore(type, value, traceback);
    passed = error == 0;
    return error == 0 ? 0 : fault_in(error, "CPython's structures are not as expected");
}

#endif
