/*
 * Carry: what an action hands to a thread pool or to a new greenlet is still its own. Only our ContextVar
 * goes with it, nothing else of the context: the application finds its own variables there as it always did.
 */
#include "pybind/pybind.h"

struct carrier {
    PyObject_HEAD struct module_state *state;
    PyObject *function;
    struct action_object *action;
};

PyObject *carry(PyObject *module, PyObject *function)
{
    struct module_state *state = PyModule_GetState(module);
    struct action_object *action = PyCallable_Check(function) ? action_current(state) : NULL;
    PyTypeObject *type = state->carrier_type;
    struct carrier *self = action != NULL ? (struct carrier *)type->tp_alloc(type, 0) : NULL;
    if (self == NULL) {
        PyErr_Clear();
        return Py_NewRef(function);
    }
    self->state = state;
    self->function = Py_NewRef(function);
    self->action = (struct action_object *)Py_NewRef((PyObject *)action);
    return (PyObject *)self;
}

/* Make `action` (or None) the current one. Returns what was, as a new reference, or NULL. */
static PyObject *exchange(struct module_state *state, PyObject *action)
{
    PyObject *former = NULL;
    if (PyContextVar_Get(state->current, NULL, &former) != 0)
        PyErr_Clear();
    action_make_current(state, action);
    return former;
}

static PyObject *call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    struct carrier *self = (struct carrier *)object;
    if (self->function == NULL) /* the garbage collector has taken us apart */
        return PyErr_Format(PyExc_RuntimeError, "the function to be called has gone");
    PyObject *former = exchange(self->state, (PyObject *)self->action);
    PyObject *result = PyObject_Call(self->function, args, kwargs);
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    Py_XDECREF(exchange(self->state, former != NULL ? former : Py_None));
    PyErr_Restore(type, value, traceback);
    Py_XDECREF(former);
    return result;
}

PyObject *carried_context(PyObject *module, PyObject *unused)
{
    struct module_state *state = PyModule_GetState(module);
    PyObject *action = Py_XNewRef((PyObject *)action_current(state));
    PyObject *context = action != NULL ? PyContext_New() : NULL;
    if (context != NULL && PyContext_Enter(context) == 0) {
        PyObject *token = PyContextVar_Set(state->current, action);
        bool set = token != NULL;
        Py_XDECREF(token);
        if (PyContext_Exit(context) != 0 || !set)
            Py_CLEAR(context);
    }
    PyErr_Clear();
    Py_XDECREF(action);
    return context != NULL ? context : Py_NewRef(Py_None);
}

/* ---- the type ------------------------------------------------------------------------------------------ */

/* Whatever else the function has (a name, for who logs what runs in a pool) is still there. */
static PyObject *get_attribute(PyObject *object, PyObject *name)
{
    PyObject *own = PyObject_GenericGetAttr(object, name);
    PyObject *function = ((struct carrier *)object)->function;
    if (own != NULL || function == NULL || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return own;
    PyErr_Clear();
    return PyObject_GetAttr(function, name);
}

static PyObject *represent(PyObject *object)
{
    PyObject *function = ((struct carrier *)object)->function;
    return PyObject_Repr(function != NULL ? function : Py_None);
}

static int traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((struct carrier *)object)->function);
    return 0;
}

static int clear(PyObject *object)
{
    Py_CLEAR(((struct carrier *)object)->function);
    return 0;
}

static void dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    clear(object);
    Py_XDECREF((PyObject *)((struct carrier *)object)->action);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyType_Slot slots_of_type[] = {
    {Py_tp_call, call},
    {Py_tp_getattro, get_attribute},
    {Py_tp_repr, represent},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_dealloc, dealloc},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "profilomatic._runtime.Carried",
    .basicsize = sizeof(struct carrier),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots_of_type,
};

int carry_add_type(PyObject *module, struct module_state *state)
{
    state->carrier_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
    return state->carrier_type == NULL ? -1 : 0;
}
