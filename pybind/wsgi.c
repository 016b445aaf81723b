/*
 * The WSGI wrapper: an action from the call of the application to the close() of what it returned (PEP 3333).
 *
 * A request makes three small objects: the action, the request (which is also the start_response that the
 * application gets), and the body that goes to the server in place of the application's iterable. A file
 * wrapper is handed on as it is, since servers recognise it and use sendfile; its close() is hooked instead.
 * Anything unexpected goes straight through to the application.
 */
#include "pybind/pybind.h"

#include "pybind/path.h"
#include "runtime/worker.h"

struct request {
    PyObject_HEAD struct module_state *state;
    PyObject *start_response; /* the server's */
    PyObject *environ;
    PyObject *name; /* fixed action type, or NULL */
    struct action_object *action;
    bool error;
    size_t path_length;
    char path[PATH_NAME_MAX];
};

struct body {
    PyObject_HEAD struct request *request;
    PyObject *iterable; /* what the application returned */
    PyObject *iterator; /* made at the first step */
};

struct closer {
    PyObject_HEAD struct request *request;
    PyObject *close; /* the file wrapper's own, or NULL */
};

struct application {
    PyObject_HEAD PyObject *application;
    PyObject *name;
    struct module_state *state;
    PyObject *module;
};

/* ---- the action type ----------------------------------------------------------------------------------- */

/* Raw bytes of a WSGI string: they stand in it as Latin-1 characters. */
static const char *wsgi_bytes(PyObject *text, size_t *length)
{
    if (text == NULL || !PyUnicode_Check(text) || PyUnicode_READY(text) != 0 ||
        PyUnicode_KIND(text) != PyUnicode_1BYTE_KIND) {
        *length = 0;
        return "";
    }
    *length = (size_t)PyUnicode_GET_LENGTH(text);
    return (const char *)PyUnicode_1BYTE_DATA(text);
}

static void note_path(struct request *self)
{
    char full[2048];
    size_t script_length, path_length;
    const char *script =
        wsgi_bytes(PyDict_GetItemWithError(self->environ, self->state->str_SCRIPT_NAME), &script_length);
    const char *path =
        wsgi_bytes(PyDict_GetItemWithError(self->environ, self->state->str_PATH_INFO), &path_length);
    if (script_length > sizeof full / 2)
        script_length = sizeof full / 2;
    if (path_length > sizeof full - script_length)
        path_length = sizeof full - script_length;
    memcpy(full, script, script_length);
    memcpy(full + script_length, path, path_length);
    self->path_length = path_normalise(full, script_length + path_length, self->path);
}

/* Attribute by a path of names, new reference; NULL without an exception if any of it is missing. */
static PyObject *follow(PyObject *object, PyObject *first, PyObject *second)
{
    PyObject *a = PyObject_GetAttr(object, first);
    PyObject *b = a != NULL && a != Py_None ? PyObject_GetAttr(a, second) : NULL;
    if (b == NULL)
        PyErr_Clear();
    Py_XDECREF(a);
    return b;
}

/* The framework's route template, as new reference to a str, or NULL without an exception. */
static PyObject *route_template(struct request *self)
{
    struct module_state *state = self->state;
    PyObject *request = PyDict_GetItemWithError(self->environ, state->str_werkzeug_request);
    PyObject *found = NULL;
    if (request != NULL)
        found = follow(request, state->str_url_rule, state->str_rule);
    if (found == NULL && state->template != NULL) {
        found = PyObject_CallOneArg(state->template, self->environ);
        if (found == NULL)
            PyErr_Clear();
    }
    if (found != NULL && !PyUnicode_Check(found))
        Py_CLEAR(found);
    return found;
}

/* End the action; harmless when it has ended. Leaves a pending exception as it is. */
static void finish(struct request *self)
{
    if (self->action == NULL || !self->action->action.open)
        return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    struct meter_mark mark = meter_enter(&worker.meter);
    PyObject *name = self->name != NULL ? Py_NewRef(self->name) : route_template(self);
    Py_ssize_t length = (Py_ssize_t)self->path_length;
    const char *text = name != NULL ? PyUnicode_AsUTF8AndSize(name, &length) : NULL;
    if (text == NULL) {
        PyErr_Clear();
        text = self->path;
        length = (Py_ssize_t)self->path_length;
    }
    action_object_end(self->action, text, (size_t)length, self->error);
    Py_XDECREF(name);
    Py_CLEAR(self->environ);
    meter_leave(&worker.meter, mark);
    PyErr_Restore(type, value, traceback);
}

/* ---- the request, which is the application's start_response -------------------------------------------- */

static bool names_task_uuid(PyObject *headers)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++) {
        PyObject *header = PyList_GET_ITEM(headers, i);
        if (!PyTuple_Check(header) || PyTuple_GET_SIZE(header) != 2)
            continue;
        PyObject *name = PyTuple_GET_ITEM(header, 0);
        const char *text;
        if (PyUnicode_Check(name) && PyUnicode_GET_LENGTH(name) == 11 &&
            (text = PyUnicode_AsUTF8(name)) != NULL && strcasecmp(text, "X-Task-UUID") == 0)
            return true;
    }
    return false;
}

/* A copy of the headers with ours at the end; NULL without an exception if they are to stay as they are. */
static PyObject *with_task_uuid(struct request *self, PyObject *headers)
{
    if (!PyList_Check(headers) || names_task_uuid(headers)) {
        PyErr_Clear();
        return NULL;
    }
    PyObject *uuid = action_object_uuid(self->action);
    PyObject *header = uuid != NULL ? PyTuple_Pack(2, self->state->str_header, uuid) : NULL;
    PyObject *copy = header != NULL ? PyList_GetSlice(headers, 0, PyList_GET_SIZE(headers)) : NULL;
    if (copy != NULL && PyList_Append(copy, header) != 0)
        Py_CLEAR(copy);
    Py_XDECREF(header);
    if (copy == NULL)
        PyErr_Clear();
    return copy;
}

static PyObject *call_request(PyObject *object, PyObject *args, PyObject *kwargs)
{
    struct request *self = (struct request *)object;
    struct meter_mark mark = meter_enter(&worker.meter);
    PyObject *headers = NULL, *replaced = NULL;
    if (PyTuple_GET_SIZE(args) >= 2) {
        PyObject *status = PyTuple_GET_ITEM(args, 0);
        if (PyUnicode_Check(status) && PyUnicode_GET_LENGTH(status) > 0)
            self->error = PyUnicode_READ_CHAR(status, 0) >= '5' && PyUnicode_READ_CHAR(status, 0) <= '9';
        headers = with_task_uuid(self, PyTuple_GET_ITEM(args, 1));
    }
    if (self->name == NULL && self->environ != NULL && !PyErr_Occurred())
        self->name =
            route_template(self); /* now, because Flask drops its request from the environ before close() */
    if (headers != NULL) {
        replaced = PyTuple_GetSlice(args, 0, PyTuple_GET_SIZE(args));
        if (replaced == args) { /* a whole slice of a tuple is the tuple itself */
            Py_DECREF(replaced);
            replaced = PyTuple_New(PyTuple_GET_SIZE(args));
            for (Py_ssize_t i = 0; replaced != NULL && i < PyTuple_GET_SIZE(args); i++)
                PyTuple_SET_ITEM(replaced, i, Py_NewRef(PyTuple_GET_ITEM(args, i)));
        }
        if (replaced == NULL) {
            Py_DECREF(headers);
            return NULL;
        }
        Py_DECREF(PyTuple_GET_ITEM(replaced, 1));
        PyTuple_SET_ITEM(replaced, 1, headers);
    }
    meter_leave(&worker.meter, mark);
    PyObject *result = PyObject_Call(self->start_response, replaced != NULL ? replaced : args, kwargs);
    Py_XDECREF(replaced);
    return result;
}

static int traverse_request(PyObject *object, visitproc visit, void *arg)
{
    struct request *self = (struct request *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->start_response);
    Py_VISIT(self->environ);
    return 0;
}

static int clear_request(PyObject *object)
{
    struct request *self = (struct request *)object;
    finish(self);
    Py_CLEAR(self->start_response);
    Py_CLEAR(self->environ);
    return 0;
}

static void dealloc_request(PyObject *object)
{
    struct request *self = (struct request *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    clear_request(object);
    Py_XDECREF(self->name);
    Py_XDECREF((PyObject *)self->action);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyType_Slot request_slots[] = {
    {Py_tp_call, call_request},
    {Py_tp_traverse, traverse_request},
    {Py_tp_clear, clear_request},
    {Py_tp_dealloc, dealloc_request},
    {0, NULL},
};

static PyType_Spec request_spec = {
    .name = "profilomatic._runtime.StartResponse",
    .basicsize = sizeof(struct request),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = request_slots,
};

/* ---- the body ------------------------------------------------------------------------------------------ */

static PyObject *next_of_body(PyObject *object)
{
    struct body *self = (struct body *)object;
    if (self->iterator == NULL) {
        if (self->iterable == NULL)
            return NULL;
        self->iterator = PyObject_GetIter(self->iterable);
        if (self->iterator == NULL) {
            self->request->error = true;
            return NULL;
        }
    }
    PyObject *item = Py_TYPE(self->iterator)->tp_iternext(self->iterator);
    if (item == NULL && PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_StopIteration))
        self->request->error = true;
    return item;
}

/* Call the close() of `object` if it has one. New reference to None, or NULL with the exception it raised. */
static PyObject *close_it(PyObject *object, PyObject *name)
{
    PyObject *close = PyObject_GetAttr(object, name);
    if (close == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return NULL;
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    PyObject *result = PyObject_CallNoArgs(close);
    Py_DECREF(close);
    return result;
}

static PyObject *close_body(PyObject *object, PyObject *unused)
{
    struct body *self = (struct body *)object;
    PyObject *iterable = self->iterable;
    if (iterable == NULL)
        Py_RETURN_NONE;
    self->iterable = NULL;
    Py_CLEAR(self->iterator);
    PyObject *result = close_it(iterable, self->request->state->str_close);
    if (result == NULL)
        self->request->error = true;
    finish(self->request);
    Py_DECREF(iterable);
    return result;
}

/* Servers take len() == 1 as a sign that the body is complete; where the application's iterable has no
 * length, there is none here either (TypeError, as for any object without one). */
static Py_ssize_t length_of_body(PyObject *object)
{
    struct body *self = (struct body *)object;
    if (self->iterable == NULL)
        return 0;
    return PyObject_Size(self->iterable);
}

static int traverse_body(PyObject *object, visitproc visit, void *arg)
{
    struct body *self = (struct body *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)self->request);
    Py_VISIT(self->iterable);
    Py_VISIT(self->iterator);
    return 0;
}

static int clear_body(PyObject *object)
{
    struct body *self = (struct body *)object;
    Py_CLEAR(self->iterator);
    Py_CLEAR(self->iterable);
    Py_CLEAR(self->request);
    return 0;
}

static void dealloc_body(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    clear_body(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef body_methods[] = {
    {"close", close_body, METH_NOARGS, "close()\n--\n\nClose the application's iterable and end the action."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot body_slots[] = {
    {Py_tp_iter, PyObject_SelfIter}, {Py_tp_iternext, next_of_body},
    {Py_sq_length, length_of_body},  {Py_tp_methods, body_methods},
    {Py_tp_traverse, traverse_body}, {Py_tp_clear, clear_body},
    {Py_tp_dealloc, dealloc_body},   {0, NULL},
};

static PyType_Spec body_spec = {
    .name = "profilomatic._runtime.Body",
    .basicsize = sizeof(struct body),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = body_slots,
};

/* ---- file wrappers ------------------------------------------------------------------------------------- */

static PyObject *call_closer(PyObject *object, PyObject *args, PyObject *kwargs)
{
    struct closer *self = (struct closer *)object;
    PyObject *result = self->close != NULL ? PyObject_Call(self->close, args, kwargs) : Py_NewRef(Py_None);
    if (result == NULL)
        self->request->error = true;
    finish(self->request);
    return result;
}

static int traverse_closer(PyObject *object, visitproc visit, void *arg)
{
    struct closer *self = (struct closer *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)self->request);
    Py_VISIT(self->close);
    return 0;
}

static int clear_closer(PyObject *object)
{
    struct closer *self = (struct closer *)object;
    Py_CLEAR(self->close);
    Py_CLEAR(self->request);
    return 0;
}

static void dealloc_closer(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    clear_closer(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyType_Slot closer_slots[] = {
    {Py_tp_call, call_closer},
    {Py_tp_traverse, traverse_closer},
    {Py_tp_clear, clear_closer},
    {Py_tp_dealloc, dealloc_closer},
    {0, NULL},
};

static PyType_Spec closer_spec = {
    .name = "profilomatic._runtime.Closer",
    .basicsize = sizeof(struct closer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = closer_slots,
};

/* Where file_wrapper is a class, its instances; where it is a function (uWSGI), what it returns has a
 * descriptor. */
static bool is_file_wrapper(struct request *request, PyObject *result)
{
    PyObject *wrapper = request->environ != NULL
                            ? PyDict_GetItemWithError(request->environ, request->state->str_file_wrapper)
                            : NULL;
    if (wrapper == NULL || PyList_CheckExact(result) || PyTuple_CheckExact(result))
        return false;
    if (PyType_Check(wrapper))
        return PyObject_TypeCheck(result, (PyTypeObject *)wrapper);
    return PyObject_HasAttrString(result, "fileno");
}

/* Leave the file wrapper as it is, but learn of its close(). Where that cannot be, the action ends here. */
static void hook_close(struct request *request, PyObject *result)
{
    PyTypeObject *type = request->state->closer_type;
    struct closer *closer = (struct closer *)type->tp_alloc(type, 0);
    if (closer != NULL) {
        closer->request = (struct request *)Py_NewRef((PyObject *)request);
        closer->close = PyObject_GetAttr(result, request->state->str_close);
        if (closer->close == NULL)
            PyErr_Clear();
        if (PyObject_SetAttr(result, request->state->str_close, (PyObject *)closer) == 0) {
            Py_DECREF(closer);
            return;
        }
        Py_DECREF(closer);
    }
    PyErr_Clear();
    finish(request);
}

/* ---- the application ----------------------------------------------------------------------------------- */

/* Begin the action of one request; NULL without an exception if it is to run without one. */
static struct request *begin_request(struct application *self, PyObject *environ, PyObject *start_response)
{
    struct module_state *state = self->state;
    PyTypeObject *type = state->start_response_type;
    struct request *request = (struct request *)type->tp_alloc(type, 0);
    if (request == NULL)
        goto off;
    request->state = state;
    request->environ = Py_NewRef(environ);
    request->start_response = Py_NewRef(start_response);
    request->name = Py_XNewRef(self->name);
    note_path(request);

    PyObject *given = PyDict_GetItemWithError(environ, state->str_HTTP_X_TASK_UUID);
    if (given != NULL && !PyUnicode_Check(given))
        given = NULL;
    request->action = action_object_new(state, self->module, NULL, given);
    if (request->action == NULL)
        goto off;
    Py_ssize_t length = (Py_ssize_t)request->path_length;
    const char *hint = self->name != NULL ? PyUnicode_AsUTF8AndSize(self->name, &length) : NULL;
    if (hint == NULL) {
        PyErr_Clear();
        hint = request->path;
    }
    action_object_begin(request->action, hint, (size_t)length, self->name != NULL);
    PyObject *uuid = request->action->action.open ? action_object_uuid(request->action) : NULL;
    if (uuid == NULL || PyDict_SetItem(environ, state->str_task_key, uuid) != 0)
        goto off;
    if (given == NULL && PyDict_SetItem(environ, state->str_HTTP_X_TASK_UUID, uuid) != 0)
        goto off;
    return request;
off:
    PyErr_Clear();
    Py_XDECREF((PyObject *)request);
    return NULL;
}

static PyObject *wrap_result(struct request *request, PyObject *result)
{
    if (is_file_wrapper(request, result)) {
        hook_close(request, result);
        return result;
    }
    PyTypeObject *type = request->state->body_type;
    struct body *body = (struct body *)type->tp_alloc(type, 0);
    if (body == NULL) {
        PyErr_Clear();
        finish(request);
        return result;
    }
    body->request = (struct request *)Py_NewRef((PyObject *)request);
    body->iterable = result;
    return (PyObject *)body;
}

static PyObject *call_application(PyObject *object, PyObject *args, PyObject *kwargs)
{
    struct application *self = (struct application *)object;
    /* A wrapper inside a wrapper (middleware, or `run` over an application that wraps itself) lets it
     * through: the outer one counts. */
    if (!worker.enabled || kwargs != NULL || PyTuple_GET_SIZE(args) != 2 ||
        !PyDict_Check(PyTuple_GET_ITEM(args, 0)) ||
        PyDict_Contains(PyTuple_GET_ITEM(args, 0), self->state->str_task_key) != 0)
        return PyObject_Call(self->application, args, kwargs);

    PyObject *environ = PyTuple_GET_ITEM(args, 0);
    struct meter_mark mark = meter_enter(&worker.meter);
    struct request *request = begin_request(self, environ, PyTuple_GET_ITEM(args, 1));
    meter_leave(&worker.meter, mark);
    if (request == NULL)
        return PyObject_Call(self->application, args, kwargs);

    PyObject *result = PyObject_CallFunctionObjArgs(self->application, environ, (PyObject *)request, NULL);
    if (result == NULL) {
        request->error = true;
        finish(request);
    } else {
        result = wrap_result(request, result);
    }
    Py_DECREF(request);
    return result;
}

/* Whatever else the application has (Flask's .config, .cli) is still there. */
static PyObject *get_attribute(PyObject *object, PyObject *name)
{
    PyObject *own = PyObject_GenericGetAttr(object, name);
    if (own != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return own;
    PyErr_Clear();
    return PyObject_GetAttr(((struct application *)object)->application, name);
}

static PyObject *get_application(PyObject *object, void *unused)
{
    return Py_NewRef(((struct application *)object)->application);
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

static PyType_Slot application_slots[] = {
    {Py_tp_call, call_application},         {Py_tp_getattro, get_attribute},
    {Py_tp_repr, represent_application},    {Py_tp_getset, application_getters},
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
    struct {
        PyTypeObject **type;
        PyType_Spec *spec;
    } plan[] = {
        {&state->start_response_type, &request_spec},
        {&state->body_type, &body_spec},
        {&state->closer_type, &closer_spec},
        {&state->application_type, &application_spec},
    };
    for (size_t i = 0; i < sizeof plan / sizeof *plan; i++) {
        *plan[i].type = (PyTypeObject *)PyType_FromModuleAndSpec(module, plan[i].spec, NULL);
        if (*plan[i].type == NULL)
            return -1;
    }
    return PyModule_AddType(module, state->application_type);
}
