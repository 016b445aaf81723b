/*
 * The WSGI wrapper: an action from the call of the application to the close() of what it returned (PEP 3333).
 *
 * A request makes three small objects: the action, the request (which is also the start_response that the
 * application gets, request.c), and the body that goes to the server in place of the application's iterable
 * (body.c). Anything unexpected goes straight through to the application.
 */
#include "pybind/wsgi.h"

#include <structmember.h>

#include "runtime/worker.h"

struct application {
    PyObject_HEAD PyObject *application;
    PyObject *name;
    struct module_state *state;
    PyObject *module;
    PyObject *weak_references;
};

/* Whether this call is a request that shall be an action. A wrapper inside a wrapper (middleware, or `run`
 * over an application that wraps itself) lets it through: the outer one counts. */
static bool is_request(struct application *self, PyObject *args, PyObject *kwargs)
{
    if (!worker.enabled || kwargs != NULL || PyTuple_GET_SIZE(args) != 2 ||
        !PyDict_Check(PyTuple_GET_ITEM(args, 0)))
        return false;
    int inside = PyDict_Contains(PyTuple_GET_ITEM(args, 0), self->state->str_task_key);
    if (inside < 0)
        PyErr_Clear();
    return inside == 0;
}

static PyObject *call_application(PyObject *object, PyObject *args, PyObject *kwargs)
{
    struct application *self = (struct application *)object;
    if (self->application == NULL) /* the garbage collector has taken us apart */
        return PyErr_Format(PyExc_RuntimeError, "the wrapped application has gone");
    if (!is_request(self, args, kwargs))
        return PyObject_Call(self->application, args, kwargs);

    PyObject *wsgi_environ = PyTuple_GET_ITEM(args, 0);
    struct meter_mark mark = meter_enter(&worker.meter);
    struct request *request =
        request_begin(self->state, self->module, self->name, wsgi_environ, PyTuple_GET_ITEM(args, 1));
    meter_leave(&worker.meter, mark);
    if (request == NULL)
        return PyObject_Call(self->application, args, kwargs);

    PyObject *result =
        PyObject_CallFunctionObjArgs(self->application, wsgi_environ, (PyObject *)request, NULL);
    if (result == NULL) {
        request->error = true;
        request_finish(request);
    } else {
        result = body_of(request, result);
    }
    Py_DECREF(request);
    return result;
}

/* Whatever else the application has (Flask's .config, .cli) is still there. */
static PyObject *get_attribute(PyObject *object, PyObject *name)
{
    PyObject *own = PyObject_GenericGetAttr(object, name);
    PyObject *application = ((struct application *)object)->application;
    if (own != NULL || application == NULL || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return own;
    PyErr_Clear();
    return PyObject_GetAttr(application, name);
}

/* `app.wsgi_app = Middleware(app.wsgi_app)` means the application, also where somebody else wrapped it. */
static int set_attribute(PyObject *object, PyObject *name, PyObject *value)
{
    PyObject *application = ((struct application *)object)->application;
    if (application == NULL) {
        PyErr_SetString(PyExc_AttributeError, "the wrapped application has gone");
        return -1;
    }
    return PyObject_SetAttr(application, name, value);
}

static PyObject *get_application(PyObject *object, void *unused)
{
    PyObject *application = ((struct application *)object)->application;
    return Py_NewRef(application != NULL ? application : Py_None);
}

static PyObject *represent_application(PyObject *object)
{
    return PyUnicode_FromFormat("<profilomatic.wsgi wrapper of %R>",
                                ((struct application *)object)->application);
}

static int traverse_application(PyObject *object, visitproc visit, void *arg)
{
    struct application *self = (struct application *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->application);
    Py_VISIT(self->module);
    return 0;
}

static int clear_application(PyObject *object)
{
    Py_CLEAR(((struct application *)object)->application);
    return 0;
}

static void dealloc_application(PyObject *object)
{
    struct application *self = (struct application *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->weak_references != NULL)
        PyObject_ClearWeakRefs(object);
    clear_application(object);
    Py_XDECREF(self->name);
    Py_XDECREF(self->module);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyGetSetDef application_getters[] = {
    {"application", get_application, NULL, "The wrapped WSGI application.", NULL},
    {"__wrapped__", get_application, NULL, "The wrapped WSGI application.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef application_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(struct application, weak_references), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot application_slots[] = {
    {Py_tp_call, call_application},         {Py_tp_getattro, get_attribute},
    {Py_tp_setattro, set_attribute},        {Py_tp_repr, represent_application},
    {Py_tp_getset, application_getters},    {Py_tp_members, application_members},
    {Py_tp_traverse, traverse_application}, {Py_tp_clear, clear_application},
    {Py_tp_dealloc, dealloc_application},   {0, NULL},
};

static PyType_Spec application_spec = {
    .name = "profilomatic._runtime.WsgiApplication",
    .basicsize = sizeof(struct application),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = application_slots,
};

PyObject *wsgi_wrap(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"app", "name", NULL};
    PyObject *app, *name = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:wrap", names, &app, &name))
        return NULL;
    struct module_state *state = PyModule_GetState(module);
    if (name != Py_None && !PyUnicode_Check(name))
        return PyErr_Format(PyExc_TypeError, "name must be a str or None, not %.100s",
                            Py_TYPE(name)->tp_name);
    if (!PyCallable_Check(app))
        return PyErr_Format(PyExc_TypeError, "wrap() needs a WSGI application (a callable), not %.100s",
                            Py_TYPE(app)->tp_name);
    if (Py_TYPE(app) == state->application_type)
        return Py_NewRef(app);
    PyTypeObject *type = state->application_type;
    struct application *self = (struct application *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->application = Py_NewRef(app);
    self->name = name != Py_None ? Py_NewRef(name) : NULL;
    self->state = state;
    self->module = Py_NewRef(module);
    return (PyObject *)self;
}

int wsgi_add_types(PyObject *module, struct module_state *state)
{
    if (request_add_type(module, state) != 0 || body_add_types(module, state) != 0)
        return -1;
    state->application_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &application_spec, NULL);
    return state->application_type == NULL ? -1 : PyModule_AddType(module, state->application_type);
}
