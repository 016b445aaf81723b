/* The extension module profilomatic._runtime: switching the runtime on, its state, and its types. */
#include "pybind/pybind.h"

#include <limits.h>
#include <stdlib.h>

#include "runtime/cpython/context.h"
#include "runtime/first_thread.h"
#include "runtime/stacks.h"
#include "runtime/worker.h"
#include "shm/fault.h"

static int raise_later(void *exception)
{
    PyErr_SetObject((PyObject *)Py_TYPE((PyObject *)exception), exception);
    Py_DECREF((PyObject *)exception);
    return -1;
}

/* To profilomatic._guard, which counts it and tells of the first. False if that fails as well. */
static bool tell_failure(PyObject *where, PyObject *error)
{
    PyObject *name = PyObject_GetAttrString(where, "__qualname__");
    if (name == NULL) {
        PyErr_Clear();
        name = PyObject_Repr(where);
    }
    PyObject *guard = name != NULL ? PyImport_ImportModule("profilomatic._guard") : NULL;
    PyObject *result = guard != NULL ? PyObject_CallMethod(guard, "failed", "OO", name, error) : NULL;
    bool told = result != NULL;
    if (!told)
        PyErr_Clear();
    Py_XDECREF(result);
    Py_XDECREF(guard);
    Py_XDECREF(name);
    return told;
}

static void report_failure(PyObject *where)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value == NULL || !tell_failure(where, value)) {
        PyErr_Restore(type, value, traceback);
        PyErr_WriteUnraisable(where);
        return;
    }
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

void hook_failed(PyObject *where)
{
    bool ends = PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit);
    if (where != NULL && !ends) {
        report_failure(where);
        return;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (ends) {
        PyErr_NormalizeException(&type, &value, &traceback);
        if (value != NULL && Py_AddPendingCall(raise_later, Py_NewRef(value)) != 0)
            Py_DECREF(value);
    }
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

/* The folder that will be sys.path[0]: it is not there yet while sitecustomize runs. False if none is known.
 */
static bool script_folder(char out[PATH_MAX])
{
    PyObject *arguments = PySys_GetObject("argv"); /* borrowed */
    if (arguments == NULL || !PyList_Check(arguments) || PyList_GET_SIZE(arguments) == 0 ||
        !PyUnicode_Check(PyList_GET_ITEM(arguments, 0)))
        return false;
    const char *script = PyUnicode_AsUTF8(PyList_GET_ITEM(arguments, 0));
    if (script == NULL) {
        PyErr_Clear();
        return false;
    }
    if (strcmp(script, "-c") == 0 || strcmp(script, "-m") == 0 || *script == '\0')
        return getcwd(out, PATH_MAX) != NULL;
    if (realpath(script, out) == NULL)
        return false;
    char *name = strrchr(out, '/');
    if (name != NULL)
        *name = '\0';
    return name != NULL;
}

/* Folders that modules are imported from, so that file names can be told relative to them. */
static void note_import_roots(void)
{
    enum { MOST = 64 };
    const char *paths[MOST];
    char here[PATH_MAX], script[PATH_MAX];
    int count = 0;
    if (script_folder(script))
        paths[count++] = script;
    PyObject *path = PySys_GetObject("path"); /* borrowed */
    Py_ssize_t length = path != NULL && PyList_Check(path) ? PyList_GET_SIZE(path) : 0;
    for (Py_ssize_t i = 0; i < length && count < MOST; i++) {
        PyObject *item = PyList_GET_ITEM(path, i);
        const char *text = PyUnicode_Check(item) ? PyUnicode_AsUTF8(item) : NULL;
        if (text == NULL)
            PyErr_Clear();
        else if (*text == '\0' && getcwd(here, sizeof here) != NULL)
            paths[count++] = here;
        else if (*text == '/')
            paths[count++] = text;
    }
    stacks_add_roots(paths, count);
}

/* This interpreter learns of the attachment: each of several in one process (uWSGI's mounts) for itself. */
static void tell_attached(struct module_state *state)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    note_import_roots();
    PyObject *callback = Py_XNewRef(state->on_attach); /* it may be replaced while it runs */
    if (callback != NULL) {
        uint64_t start = clock_monotonic_ns();
        PyObject *result = PyObject_CallNoArgs(callback);
        if (result == NULL)
            hook_failed(callback);
        Py_XDECREF(result);
        Py_DECREF(callback);
        meter_exact(&worker.meter, clock_monotonic_ns() - start);
    }
    PyErr_Restore(type, value, traceback);
}

bool module_attach(struct module_state *state)
{
    if (worker_is_attached() && state->attachment == worker.attachment)
        return true;
    if (!worker.enabled || !worker_ready(clock_monotonic_ns()))
        return false;
    if (state->attachment != worker.attachment) {
        state->attachment = worker.attachment; /* first: what is called may begin actions */
        tell_attached(state);
    }
    return true;
}

static int copy_text(char *out, size_t size, const char *text, const char *what)
{
    if (strlen(text) >= size) {
        PyErr_Format(PyExc_ValueError, "%s is longer than %zu bytes: '%.60s…'", what, size - 1, text);
        return -1;
    }
    strcpy(out, text);
    return 0;
}

PyDoc_STRVAR(
    enable_doc,
    "enable($module, directory, source, aggregator=None, on_attach=None, process=False)\n--\n\n"
    "Switch profiling on in this process and in every process forked from it.\n\n"
    "Nothing is made until an action begins; then each process makes its segment, calls on_attach() and "
    "starts its\n"
    "sampler thread. `aggregator` is the program to start where none serves the directory; None: never\n"
    "start one. `process`: threads outside actions will be sampled as well, so the sampler does not wait "
    "for\n"
    "actions. Raises RuntimeError if this interpreter is not the one that the extension was built for.");

static PyObject *enable(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"directory", "source", "aggregator", "on_attach", "process", NULL};
    const char *directory, *source, *aggregator = NULL;
    PyObject *callback = Py_None;
    int process = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ss|zOp:enable", names, &directory, &source, &aggregator,
                                     &callback, &process))
        return NULL;
    struct module_state *state = PyModule_GetState(module);
    struct worker_settings settings = {
        .python_hexversion = PY_VERSION_HEX, .uid = geteuid(), .process = process != 0};
    char usual[DIRECTORY_PATH_MAX];
    settings.directory_is_default = directory_default(usual) == 0 && strcmp(usual, directory) == 0;
    if (copy_text(settings.directory, sizeof settings.directory, directory, "directory") != 0 ||
        copy_text(settings.source, sizeof settings.source, source, "source") != 0 ||
        copy_text(settings.aggregator, sizeof settings.aggregator, aggregator != NULL ? aggregator : "",
                  "aggregator") != 0)
        return NULL;
    if (directory_pool(settings.pool, directory, geteuid(), source) != 0)
        return PyErr_Format(PyExc_ValueError, "%s", fault_text());
    if (worker_enable(&settings) != 0) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_RuntimeError, "%s", fault_text());
        return NULL;
    }
    Py_XSETREF(state->on_attach, callback != Py_None ? Py_NewRef(callback) : NULL);
    state->attachment = 0; /* what is asked for may have changed: told again */
    if (worker_is_attached())
        module_attach(state);
    Py_RETURN_NONE;
}

static PyObject *disable(PyObject *module, PyObject *unused)
{
    worker_disable();
    Py_RETURN_NONE;
}

static PyObject *enabled(PyObject *module, PyObject *unused)
{
    return PyBool_FromLong(worker.enabled);
}

static PyObject *attach(PyObject *module, PyObject *unused)
{
    return PyBool_FromLong(module_attach(PyModule_GetState(module)));
}

static uint64_t word(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static PyObject *status(PyObject *module, PyObject *unused)
{
    static const char *const reasons[DENIALS] = {"no_rates", "overhead",  "lottery",
                                                 "cap",      "lane_full", "no_slot"};
    if (!worker_is_attached())
        return Py_BuildValue("{sOsOss}", "attached", Py_False, "enabled", worker.enabled ? Py_True : Py_False,
                             "reason", worker.reason);
    worker_publish_meter();
    const struct worker_page *page = worker.segment.worker;
    PyObject *denied = PyDict_New();
    for (int i = 0; denied != NULL && i < DENIALS; i++) {
        PyObject *n = PyLong_FromUnsignedLongLong(word(&page->denied[i]));
        if (n == NULL || PyDict_SetItemString(denied, reasons[i], n) != 0)
            Py_CLEAR(denied);
        Py_XDECREF(n);
    }
    if (denied == NULL)
        return NULL;
    char uuid[33];
    for (int i = 0; i < 16; i++)
        snprintf(uuid + 2 * i, 3, "%02x", worker.segment.header->uuid[i]);
    uint64_t lost = word(&page->lanes[0].lost_records) + word(&page->lanes[1].lost_records);
    return Py_BuildValue(
        "{sOsOsssssKsNsKsKsKsKsKsKsKsdsd}", "attached", Py_True, "enabled",
        worker.enabled ? Py_True : Py_False, "reason", worker.reason, "segment", uuid, "admitted",
        (unsigned long long)word(&page->admitted), "denied", denied, "ticks",
        (unsigned long long)word(&page->ticks), "samples", (unsigned long long)word(&page->samples), "torn",
        (unsigned long long)word(&page->torn), "unreadable", (unsigned long long)word(&page->unreadable),
        "unattributed", (unsigned long long)word(&page->unattributed), "dropped", (unsigned long long)lost,
        "hooks", (unsigned long long)worker.meter.hooks, "sampler_cpu",
        (double)word(&page->sampler_cpu_ns) / 1e9, "hook_cpu", (double)worker.meter.cost_ns / 1e9);
}

static PyObject *current_task_uuid(PyObject *module, PyObject *unused)
{
    struct action_object *action = action_current(PyModule_GetState(module));
    if (action == NULL)
        Py_RETURN_NONE;
    return Py_XNewRef(action_object_uuid(action));
}

static PyObject *set_callable(PyObject **where, PyObject *value, const char *what)
{
    if (value != Py_None && !PyCallable_Check(value))
        return PyErr_Format(PyExc_TypeError, "%s takes a callable or None, not %.100s", what,
                            Py_TYPE(value)->tp_name);
    Py_XSETREF(*where, value != Py_None ? Py_NewRef(value) : NULL);
    Py_RETURN_NONE;
}

static PyObject *set_template(PyObject *module, PyObject *value)
{
    return set_callable(&((struct module_state *)PyModule_GetState(module))->template, value, "set_template");
}

static PyObject *spent(PyObject *module, PyObject *value)
{
    (void)module;
    double seconds = PyFloat_AsDouble(value);
    if (seconds == -1.0 && PyErr_Occurred())
        return NULL;
    if (worker_is_attached() && seconds > 0 && seconds < 1e6) {
        meter_used(&worker.meter, (uint64_t)(seconds * 1e9));
        worker_publish_meter();
    }
    Py_RETURN_NONE;
}

static PyObject *set_pump(PyObject *module, PyObject *value)
{
    return set_callable(&((struct module_state *)PyModule_GetState(module))->pump, value, "set_pump");
}

static PyObject *set_noter(PyObject *module, PyObject *value)
{
    return set_callable(&((struct module_state *)PyModule_GetState(module))->noter, value, "set_noter");
}

static PyObject *default_directory(PyObject *module, PyObject *unused)
{
    char path[DIRECTORY_PATH_MAX];
    if (directory_default(path) != 0)
        return PyErr_Format(PyExc_ValueError, "%s", fault_text());
    return PyUnicode_DecodeFSDefault(path);
}

static PyObject *left_only_ours(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyBool_FromLong(first_thread_left_only_ours());
}

static PyObject *pool_path(PyObject *module, PyObject *args)
{
    const char *directory, *source;
    char path[DIRECTORY_PATH_MAX];
    if (!PyArg_ParseTuple(args, "ss:pool_path", &directory, &source))
        return NULL;
    if (directory_pool(path, directory, geteuid(), source) != 0)
        return PyErr_Format(PyExc_ValueError, "%s", fault_text());
    return PyUnicode_DecodeFSDefault(path);
}

#define KEYWORDS(function) (PyCFunction)(void (*)(void))(function), METH_VARARGS | METH_KEYWORDS

static PyMethodDef functions[] = {
    {"enable", KEYWORDS(enable), enable_doc},
    {"disable", disable, METH_NOARGS, "disable($module, /)\n--\n\nIgnore new actions from now on."},
    {"enabled", enabled, METH_NOARGS, "enabled($module, /)\n--\n\nTrue between enable() and disable()."},
    {"attach", attach, METH_NOARGS,
     "attach($module, /)\n--\n\nMake this process's segment now instead of at its first action. True if it "
     "has one."},
    {"status", status, METH_NOARGS,
     "status($module, /)\n--\n\nThis process's own view, as a dict (CPU in seconds)."},
    {"current_task_uuid", current_task_uuid, METH_NOARGS,
     "current_task_uuid($module, /)\n--\n\nThe task uuid of the action that this context is in, or None."},
    {"current", action_current_method, METH_NOARGS,
     "current($module, /)\n--\n\nThe innermost open action that this context is in, or None."},
    {"set_current", action_set_current_method, METH_O,
     "set_current($module, action, /)\n--\n\nMake an action (or None) this context's current one, without "
     "beginning or "
     "ending any.\n\nReturns the former one, to be put back: what runs only now and then (a generator) is so "
     "taken up and left."},
    {"longest_text", action_text_most_method, METH_NOARGS,
     "longest_text($module, /)\n--\n\nHow many bytes of text Action.tell() takes; 0 while there is no "
     "segment."},
    {"wrap", KEYWORDS(wsgi_wrap),
     "wrap($module, app, name=None)\n--\n\nA WSGI application that makes each request an action and calls "
     "`app`.\n\nThe action type is "
     "`name`, else the framework's route template, else the normalised path. Wrapping twice is the same\nas "
     "once."},
    {"carry", carry, METH_O,
     "carry($module, function, /)\n--\n\nThe function, to be called on any thread as a part of the current "
     "action; itself if there is none."},
    {"carried_context", carried_context, METH_NOARGS,
     "carried_context($module, /)\n--\n\nA fresh context in which nothing but the current action is set; "
     "None "
     "if there is none."},
    {"asgi_begin", (PyCFunction)(void (*)(void))asgi_begin, METH_FASTCALL,
     "asgi_begin($module, scope, send, name, /)\n--\n\nBegin the action of an ASGI request and return the "
     "send for the application; None if it\nis to run without an action."},
    {"set_template", set_template, METH_O,
     "set_template($module, callable, /)\n--\n\ncallable(environ) -> str | None names a request's route when "
     "it has "
     "ended."},
    {"spent", spent, METH_O,
     "spent($module, seconds, /)\n--\n\nCPU that a thread of ours used: it counts as the hooks' does."},
    {"set_pump", set_pump, METH_O,
     "set_pump($module, callable, /)\n--\n\ncallable() runs on the request's thread after a profiled root "
     "action ended."},
    {"set_noter", set_noter, METH_O,
     "set_noter($module, callable, /)\n--\n\ncallable(action) runs right after a profiled action began."},
    {"directory_default", default_directory, METH_NOARGS,
     "directory_default($module, /)\n--\n\nThe runtime directory."},
    {"only_ours_are_left", left_only_ours, METH_NOARGS,
     "only_ours_are_left($module, /)\n--\n\nTrue where the process's first thread has ended and so have all "
     "others of "
     "the "
     "application."},
    {"pool_path", pool_path, METH_VARARGS,
     "pool_path($module, directory, source, /)\n--\n\nThe folder of this user's pool of that source name."},
    {NULL, NULL, 0, NULL},
};

static void close_worker(void)
{
    worker_close();
}

static int execute(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    static bool opened;
#ifdef Py_GIL_DISABLED
    PyErr_SetString(PyExc_ImportError, "free-threaded builds of CPython are not supported");
    return -1;
#endif
    if (!opened) {
        opened = true;
        worker_open();
        if (Py_AtExit(close_worker) != 0)
            PyErr_Clear(); /* the aggregator notices the process's end by itself */
    }
#define X(field, text)                                                                                       \
    if ((state->str_##field = PyUnicode_InternFromString(text)) == NULL)                                     \
        return -1;
    POM_NAMES(X)
#undef X
    state->current = PyContextVar_New("profilomatic.action", Py_None);
    if (state->current == NULL)
        return -1;
    return action_add_type(module, state) != 0 || wsgi_add_types(module, state) != 0 ||
                   asgi_add_type(module, state) != 0 || carry_add_type(module, state) != 0
               ? -1
               : 0;
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = PyModule_GetState(module);
    Py_VISIT(state->action_type);
    Py_VISIT(state->application_type);
    Py_VISIT(state->start_response_type);
    Py_VISIT(state->body_type);
    Py_VISIT(state->sized_body_type);
    Py_VISIT(state->closer_type);
    Py_VISIT(state->asgi_request_type);
    Py_VISIT(state->carrier_type);
    Py_VISIT(state->current);
    Py_VISIT(state->kept);
    Py_VISIT(state->template);
    Py_VISIT(state->pump);
    Py_VISIT(state->noter);
    Py_VISIT(state->on_attach);
    return 0;
}

static int clear(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    if (state->current != NULL)
        context_unwatch(state->current);
    Py_CLEAR(state->action_type);
    Py_CLEAR(state->application_type);
    Py_CLEAR(state->start_response_type);
    Py_CLEAR(state->body_type);
    Py_CLEAR(state->sized_body_type);
    Py_CLEAR(state->closer_type);
    Py_CLEAR(state->asgi_request_type);
    Py_CLEAR(state->carrier_type);
    Py_CLEAR(state->kept);
    Py_CLEAR(state->current);
    Py_CLEAR(state->template);
    Py_CLEAR(state->pump);
    Py_CLEAR(state->noter);
    Py_CLEAR(state->on_attach);
#define X(field, text) Py_CLEAR(state->str_##field);
    POM_NAMES(X)
#undef X
    return 0;
}

static void release(void *module)
{
    clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, execute},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_SUPPORTED}, /* that share the GIL */
#endif
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED}, /* it refuses; or else the application would get its GIL back for it */
#endif
    {0, NULL},
};

struct PyModuleDef pom_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "profilomatic._runtime",
    .m_doc = "The native runtime of profilomatic: actions, the WSGI wrapper, and the sampler's switch.",
    .m_size = sizeof(struct module_state),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = release,
};

PyMODINIT_FUNC PyInit__runtime(void);

PyMODINIT_FUNC PyInit__runtime(void)
{
    return PyModuleDef_Init(&pom_module);
}
