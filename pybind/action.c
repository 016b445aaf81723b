/* The Python type Action. */
#include "pybind/pybind.h"

#include "runtime/cpython/collector.h"
#include "runtime/owner.h"
#include "runtime/worker.h"
#include "shm/fault.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* 8-4-4-4-12 or 32 plain hex digits (RFC 9562); anything else is refused. */
static bool parse_uuid(PyObject *text, uint8_t out[16])
{
    Py_ssize_t length;
    const char *p = PyUnicode_AsUTF8AndSize(text, &length);
    if (p == NULL) {
        PyErr_Clear();
        return false;
    }
    if (length != 36 && length != 32)
        return false;
    int n = 0;
    for (Py_ssize_t i = 0; i < length; i++) {
        if (length == 36 && (i == 8 || i == 13 || i == 18 || i == 23)) {
            if (p[i] != '-')
                return false;
            continue;
        }
        int digit = hex_digit(p[i]);
        if (digit < 0)
            return false;
        out[n / 2] = (uint8_t)(n % 2 == 0 ? digit << 4 : out[n / 2] | digit);
        n++;
    }
    return true;
}

PyObject *action_format_uuid(const uint8_t uuid[16])
{
    static const char digits[] = "0123456789abcdef";
    char text[36];
    int n = 0;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            text[n++] = '-';
        text[n++] = digits[uuid[i] >> 4];
        text[n++] = digits[uuid[i] & 15];
    }
    return PyUnicode_FromStringAndSize(text, sizeof text);
}

struct action_object *action_current(struct module_state *state)
{
    PyObject *value = NULL;
    if (state->kept != NULL)
        current_let_go(state);
    if (PyContextVar_Get(state->current, NULL, &value) != 0) {
        PyErr_Clear();
        return NULL;
    }
    if (value == NULL)
        return NULL;
    Py_DECREF(value); /* the context keeps it */
    if (Py_TYPE(value) != state->action_type)
        return NULL;
    struct action_object *action = (struct action_object *)value;
    /* Ended ones stay current where they were ended in another context: look further out. */
    while (action != NULL && !action_is_live(&action->action))
        action = action->parent;
    return action;
}

/* Have `self` refer to the innermost action around it that is still open, so that neither a line of ended
 * ones keeps growing nor one that is begun again finds itself among its own parents. */
static void skip_ended_parents(struct action_object *self)
{
    struct action_object *parent;
    while ((parent = self->parent) != NULL && !action_is_live(&parent->action)) {
        self->parent = (struct action_object *)Py_XNewRef((PyObject *)parent->parent);
        Py_DECREF((PyObject *)parent);
    }
}

struct action_object *action_object_new(struct module_state *state, PyObject *module, PyObject *name,
                                        PyObject *uuid_text)
{
    struct action_object *self = PyObject_New(struct action_object, state->action_type);
    if (self == NULL)
        return NULL;
    memset(&self->action, 0, sizeof self->action);
    self->action.use = SLOT_UNUSED;
    self->action.wait = NO_WAIT;
    self->unit = NULL;
    self->state = state;
    self->module = Py_NewRef(module);
    self->name = Py_XNewRef(name);
    self->parent = NULL;
    self->uuid_text = Py_XNewRef(uuid_text);
    self->entered = false;
    self->used = false;
    return self;
}

/* Told of a profiled action right after its begin, so that it can say what the action is part of. */
static void call_noter(struct action_object *self)
{
    uint64_t start = clock_monotonic_ns();
    PyObject *noter = Py_NewRef(self->state->noter); /* it may take itself back */
    PyObject *result = PyObject_CallOneArg(noter, (PyObject *)self);
    if (result == NULL)
        hook_failed(noter);
    Py_XDECREF(result);
    Py_DECREF(noter);
    meter_exact(&worker.meter, clock_monotonic_ns() - start);
}

void action_object_begin(struct action_object *self, const char *hint, size_t length, bool settled)
{
    module_attach(self->state);
    struct action_object *parent = action_current(self->state);
    uint8_t uuid[16];
    bool given = self->uuid_text != NULL && parse_uuid(self->uuid_text, uuid);
    if (self->used)
        for (struct action_object *outer = parent; outer != NULL; outer = outer->parent)
            skip_ended_parents(outer);
    self->used = true;
    struct action_object *former = self->parent;
    self->parent = (struct action_object *)Py_XNewRef((PyObject *)parent);
    Py_XDECREF((PyObject *)former);
    action_begin(&self->action, hint, length, settled, parent != NULL ? &parent->action : NULL,
                 given ? uuid : NULL);
    if (!self->action.open)
        return;
    if (parent != NULL || !given)
        Py_CLEAR(self->uuid_text);
    self->entered = current_set(self->state, (PyObject *)self);
    if (self->entered) {
        action_is_current(&self->action);
        task_enter(self);
    }
    if (action_is_profiled(&self->action) && self->state->noter != NULL)
        call_noter(self);
}

/* Is `current` this action, or one inside it? What was left open inside an action ends to be current with it,
 * or all that comes later on this thread would be inside what was left open. */
static bool is_or_is_inside(PyObject *current, const struct action_object *self)
{
    if (current == NULL || Py_TYPE(current) != self->state->action_type)
        return false;
    const struct action_object *at = (const struct action_object *)current;
    while (at != NULL && at != self)
        at = at->parent;
    return at == self;
}

static void call_pump(struct module_state *state)
{
    uint64_t start = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
    PyObject *pump = Py_NewRef(state->pump); /* it may take itself back */
    PyObject *result = PyObject_CallNoArgs(pump);
    if (result == NULL)
        hook_failed(pump);
    Py_XDECREF(result);
    Py_DECREF(pump);
    meter_used(&worker.meter, clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - start);
}

void action_object_end(struct action_object *self, const char *name, size_t length, bool error)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    skip_ended_parents(self);
    task_leave(self);
    bool message =
        action_end(&self->action, name, length, error, self->parent != NULL ? &self->parent->action : NULL);
    if (self->entered) { /* an ended action that stays current is looked past */
        PyObject *current = NULL;
        if (PyContextVar_Get(self->state->current, NULL, &current) != 0)
            PyErr_Clear();
        if (is_or_is_inside(current, self))
            current_set(self->state, self->parent != NULL ? (PyObject *)self->parent : Py_None);
        Py_XDECREF(current);
    }
    self->entered = false;
    if (message && self->state->pump != NULL && !collector_may_interrupt())
        call_pump(self->state);
    PyErr_Restore(type, value, traceback);
}

void action_object_abandon(struct action_object *self)
{
    self->entered = false;
}

PyObject *action_object_uuid(struct action_object *self)
{
    if (self->uuid_text == NULL) {
        static const uint8_t none[16];
        if (memcmp(self->action.task_uuid, none, 16) == 0)
            action_make_uuid(self->action.task_uuid);
        self->uuid_text = action_format_uuid(self->action.task_uuid);
    }
    return self->uuid_text;
}

/* ---- the type ------------------------------------------------------------------------------------------ */

static PyObject *new_action(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", "task_uuid", NULL};
    PyObject *name, *uuid = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "U|O:Action", names, &name, &uuid))
        return NULL;
    if (uuid != Py_None && !PyUnicode_Check(uuid)) {
        PyErr_Format(PyExc_TypeError, "task_uuid must be a str or None, not %.100s", Py_TYPE(uuid)->tp_name);
        return NULL;
    }
    PyObject *module = PyType_GetModule(type);
    if (module == NULL)
        return NULL;
    return (PyObject *)action_object_new(PyModule_GetState(module), module, name,
                                         uuid == Py_None ? NULL : uuid);
}

static const char *name_of(struct action_object *self, Py_ssize_t *length)
{
    const char *name = self->name != NULL ? PyUnicode_AsUTF8AndSize(self->name, length) : NULL;
    if (name == NULL) {
        PyErr_Clear(); /* a lone surrogate */
        name = "(unnamed)";
        *length = 9;
    }
    return name;
}

static void end_by_name(struct action_object *self, bool error)
{
    Py_ssize_t length;
    const char *name = name_of(self, &length);
    action_object_end(self, name, (size_t)length, error);
}

/* Free it and return the reference to its parent. */
static PyObject *free_action(PyObject *object)
{
    struct action_object *self = (struct action_object *)object;
    if (self->action.open) {
        PyObject *kind, *value, *traceback;
        PyErr_Fetch(&kind, &value, &traceback);
        action_object_abandon(self);
        end_by_name(self, false);
        PyErr_Restore(kind, value, traceback);
    }
    PyTypeObject *type = Py_TYPE(object);
    PyObject *parent = (PyObject *)self->parent;
    Py_XDECREF(self->name);
    Py_XDECREF(self->uuid_text);
    Py_XDECREF(self->unit);
    Py_XDECREF(self->module);
    PyObject_Free(object);
    Py_DECREF(type);
    return parent;
}

/* In a loop, because a program that begins actions and never ends them makes a long line of them. */
static void dealloc_action(PyObject *object)
{
    PyObject *parent = free_action(object);
    while (parent != NULL && Py_REFCNT(parent) == 1)
        parent = free_action(parent);
    Py_XDECREF(parent);
}

static PyObject *begin_method(PyObject *object, PyObject *unused)
{
    struct action_object *self = (struct action_object *)object;
    if (!self->action.open) {
        struct meter_mark mark = meter_enter(&worker.meter);
        Py_ssize_t length;
        const char *name = name_of(self, &length);
        action_object_begin(self, name, (size_t)length, true);
        meter_leave(&worker.meter, mark);
    }
    return Py_NewRef(object);
}

static PyObject *end_method(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"error", "name", NULL};
    struct action_object *self = (struct action_object *)object;
    int error = 0;
    const char *name = NULL;
    Py_ssize_t length;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|pz#:end", names, &error, &name, &length))
        return NULL;
    struct meter_mark mark = meter_enter(&worker.meter);
    if (name == NULL)
        end_by_name(self, error != 0);
    else
        action_object_end(self, name, (size_t)length, error != 0);
    meter_leave(&worker.meter, mark);
    Py_RETURN_NONE;
}

static PyObject *exit_method(PyObject *object, PyObject *args)
{
    struct meter_mark mark = meter_enter(&worker.meter);
    end_by_name((struct action_object *)object,
                PyTuple_GET_SIZE(args) > 0 && PyTuple_GET_ITEM(args, 0) != Py_None);
    meter_leave(&worker.meter, mark);
    Py_RETURN_FALSE;
}

static PyObject *get_uuid(PyObject *object, void *unused)
{
    return Py_XNewRef(action_object_uuid((struct action_object *)object));
}

static PyObject *get_name(PyObject *object, void *unused)
{
    struct action_object *self = (struct action_object *)object;
    return Py_NewRef(self->name != NULL ? self->name : Py_None);
}

static PyObject *get_profiled(PyObject *object, void *unused)
{
    return PyBool_FromLong(action_is_profiled(&((struct action_object *)object)->action));
}

/* The text goes through Python's own json, so that it is UTF-8 and an object. */
static PyObject *tell_method(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"text", "flags", "depth", NULL};
    const char *text;
    Py_ssize_t length;
    unsigned flags = 0, depth = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s#|II:tell", names, &text, &length, &flags, &depth))
        return NULL;
    action_tell(&((struct action_object *)object)->action, text, (size_t)length, flags, depth);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"begin", begin_method, METH_NOARGS,
     "begin($self, /)\n--\n\nBegin it, nested in the current action. Returns itself."},
    {"end", (PyCFunction)(void (*)(void))end_method, METH_VARARGS | METH_KEYWORDS,
     "end($self, error=False, name=None)\n--\n\nEnd it, on any thread. Twice is harmless. `name` is its type "
     "where that was not known at its begin."},
    {"tell", (PyCFunction)(void (*)(void))tell_method, METH_VARARGS | METH_KEYWORDS,
     "tell($self, text, flags=0, depth=0)\n--\n\nPut a JSON object that was logged into its call graph, if "
     "it "
     "is profiled.\n\n`flags`: 1 it tells of the begin, 2 of the end, 4 it has fields of the action. "
     "`depth`: how many frames were on the "
     "stack, 0 if not known."},
    {"__enter__", begin_method, METH_NOARGS, "__enter__($self, /)\n--\n\nAs begin()."},
    {"__exit__", exit_method, METH_VARARGS, "__exit__($self, *exception)\n--\n\nAs end()."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"task_uuid", get_uuid, NULL, "The task's uuid as text; a nested action has its root's.", NULL},
    {"name", get_name, NULL, "The action type.", NULL},
    {"profiled", get_profiled, NULL, "True if it was admitted for profiling.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots_of_type[] = {
    {Py_tp_new, new_action},
    {Py_tp_dealloc, dealloc_action},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {Py_tp_doc,
     "Action(name, task_uuid=None)\n--\n\nSomething with a name, a begin and an end; a context manager.\n\n"
     "Times are those between begin() and end(). Exceptions count as errors and pass through."},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "profilomatic._runtime.Action",
    .basicsize = sizeof(struct action_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots_of_type,
};

PyObject *action_current_method(PyObject *module, PyObject *unused)
{
    struct action_object *action = action_current(PyModule_GetState(module));
    return Py_NewRef(action != NULL ? (PyObject *)action : Py_None);
}

PyObject *action_text_most_method(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromSize_t(action_text_most());
}

void action_make_current(struct module_state *state, PyObject *action)
{
    if (!current_set(state, action))
        return;
    action_is_current(Py_TYPE(action) == state->action_type ? &((struct action_object *)action)->action
                                                            : NULL);
}

PyObject *action_set_current_method(PyObject *module, PyObject *value)
{
    struct module_state *state = PyModule_GetState(module);
    PyObject *former = NULL;
    if (value != Py_None && Py_TYPE(value) != state->action_type)
        return PyErr_Format(PyExc_TypeError, "set_current takes an Action or None, not %.100s",
                            Py_TYPE(value)->tp_name);
    if (PyContextVar_Get(state->current, NULL, &former) != 0)
        return NULL;
    action_make_current(state, value);
    return former != NULL ? former : Py_NewRef(Py_None);
}

int action_add_type(PyObject *module, struct module_state *state)
{
    state->action_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
    if (state->action_type == NULL)
        return -1;
    static const struct owner_layout layout = {
        .bytes = sizeof(struct action_object),
        .type_at = offsetof(PyObject, ob_type),
        .action_at = offsetof(struct action_object, action),
        .parent_at = offsetof(struct action_object, parent),
    };
    _Static_assert(sizeof(struct action_object) <= OWNER_OBJECT_MOST, "the sampler copies it");
    owner_set_layout(&layout);
    if (context_watch(state->current, state->action_type) != 0) {
        PyErr_Format(PyExc_ImportError, "%s", fault_text());
        return -1;
    }
    return PyModule_AddType(module, state->action_type);
}
