/*
 * One WSGI request: from its begin to the end of its action. The object is the start_response that the
 * application gets: that is where the status is seen, X-Task-UUID goes out, and the framework's route is
 * known.
 */
#include "pybind/traceparent.h"
#include "pybind/wsgi.h"

#include "runtime/worker.h"

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
    PyErr_Clear(); /* of a key that could not be compared */
}

/* Attribute by a path of names, new reference; NULL without an exception if any of it is missing. */
static PyObject *follow(PyObject *object, PyObject *first, PyObject *second)
{
    PyObject *a = PyObject_GetAttr(object, first);
    PyObject *b = a != NULL && a != Py_None ? PyObject_GetAttr(a, second) : NULL;
    if (b == NULL)
        hook_failed(NULL);
    Py_XDECREF(a);
    return b;
}

/* An attribute of what stands in the environ under `key`, or of an attribute of it. New reference, or NULL
 * without an exception. */
static PyObject *from_environ(struct request *self, PyObject *key, PyObject *first, PyObject *second)
{
    PyObject *value = PyDict_GetItemWithError(self->environ, key);
    PyObject *found = NULL;
    if (value == NULL || value == Py_None) {
        PyErr_Clear();
        return NULL;
    }
    Py_INCREF(value); /* what is called may take it out of the environ */
    if (second != NULL)
        found = follow(value, first, second);
    else if ((found = PyObject_GetAttr(value, first)) == NULL)
        hook_failed(NULL);
    Py_DECREF(value);
    return found;
}

static PyObject *called_template(struct request *self)
{
    if (self->state->template == NULL)
        return NULL;
    PyObject *template = Py_NewRef(self->state->template); /* it may replace itself */
    PyObject *found = PyObject_CallOneArg(template, self->environ);
    if (found == NULL)
        hook_failed(template);
    Py_DECREF(template);
    return found;
}

/* The framework's route template, as new reference to a str, or NULL without an exception. */
static PyObject *route_template(struct request *self)
{
    struct module_state *state = self->state;
    PyObject *found = Py_XNewRef(PyDict_GetItemWithError(self->environ, state->str_route_key));
    if (found == NULL) {
        PyErr_Clear();
        found = from_environ(self, state->str_werkzeug_request, state->str_url_rule, state->str_rule);
    }
    if (found == NULL)
        found = from_environ(self, state->str_bottle_route, state->str_rule, NULL);
    if (found == NULL)
        found = called_template(self);
    if (found != NULL && !PyUnicode_Check(found))
        Py_CLEAR(found);
    return found;
}

void request_finish(struct request *self)
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

static bool is_task_uuid(PyObject *name)
{
    return PyUnicode_Check(name) && PyUnicode_READY(name) == 0 && PyUnicode_IS_ASCII(name) &&
           PyUnicode_GET_LENGTH(name) == 11 &&
           strncasecmp((const char *)PyUnicode_1BYTE_DATA(name), "X-Task-UUID", 11) == 0;
}

static bool names_task_uuid(PyObject *headers)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++) {
        PyObject *header = PyList_GET_ITEM(headers, i);
        if (PyTuple_Check(header) && PyTuple_GET_SIZE(header) == 2 &&
            is_task_uuid(PyTuple_GET_ITEM(header, 0)))
            return true;
    }
    return false;
}

/* A copy of the headers with ours at the end; NULL without an exception if they are to stay as they are. */
static PyObject *with_task_uuid(struct request *self, PyObject *headers)
{
    if (!PyList_Check(headers) || names_task_uuid(headers))
        return NULL;
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
    if (self->start_response == NULL) /* the garbage collector has taken us apart */
        return PyErr_Format(PyExc_RuntimeError, "the server's start_response has gone");
    struct meter_mark mark = meter_enter(&worker.meter);
    PyObject *headers = NULL, *replaced = NULL;
    if (PyTuple_GET_SIZE(args) >= 2) {
        PyObject *status = PyTuple_GET_ITEM(args, 0);
        if (PyUnicode_Check(status) && PyUnicode_GET_LENGTH(status) > 0)
            self->error = PyUnicode_READ_CHAR(status, 0) >= '5' && PyUnicode_READ_CHAR(status, 0) <= '9';
        headers = with_task_uuid(self, PyTuple_GET_ITEM(args, 1));
    }
    if (self->name == NULL && self->environ != NULL)
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
    if (self->action != NULL)
        action_object_abandon(self->action);
    request_finish(self);
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

/* The task that the request belongs to by its headers: X-Task-UUID, else the trace that traceparent names.
 * New reference to a str, or NULL without an exception. */
static PyObject *given_uuid(struct module_state *state, PyObject *wsgi_environ, bool *by_header)
{
    PyObject *given = PyDict_GetItemWithError(wsgi_environ, state->str_HTTP_X_TASK_UUID);
    *by_header = given != NULL && PyUnicode_Check(given);
    if (*by_header)
        return Py_NewRef(given);
    struct traceparent parent;
    size_t length;
    PyErr_Clear();
    const char *text =
        wsgi_bytes(PyDict_GetItemWithError(wsgi_environ, state->str_HTTP_TRACEPARENT), &length);
    PyErr_Clear();
    if (!traceparent_parse(text, length, &parent))
        return NULL;
    PyObject *uuid = action_format_uuid(parent.trace_id);
    if (uuid == NULL)
        PyErr_Clear();
    return uuid;
}

struct request *request_begin(struct module_state *state, PyObject *module, PyObject *name,
                              PyObject *wsgi_environ, PyObject *start_response)
{
    PyTypeObject *type = state->start_response_type;
    struct request *request = (struct request *)type->tp_alloc(type, 0);
    if (request == NULL)
        goto off;
    request->state = state;
    request->environ = Py_NewRef(wsgi_environ);
    request->start_response = Py_NewRef(start_response);
    request->name = Py_XNewRef(name);
    note_path(request);

    bool by_header;
    PyObject *given = given_uuid(state, wsgi_environ, &by_header);
    request->action = action_object_new(state, module, NULL, given);
    Py_XDECREF(given);
    if (request->action == NULL)
        goto off;
    Py_ssize_t length = (Py_ssize_t)request->path_length;
    const char *hint = name != NULL ? PyUnicode_AsUTF8AndSize(name, &length) : NULL;
    if (hint == NULL) {
        PyErr_Clear();
        hint = request->path;
        length = (Py_ssize_t)request->path_length;
    }
    action_object_begin(request->action, hint, (size_t)length, name != NULL);
    PyObject *uuid = request->action->action.open ? action_object_uuid(request->action) : NULL;
    if (uuid == NULL || PyDict_SetItem(wsgi_environ, state->str_task_key, uuid) != 0)
        goto off;
    if (!by_header && PyDict_SetItem(wsgi_environ, state->str_HTTP_X_TASK_UUID, uuid) != 0)
        goto off;
    return request;
off:
    PyErr_Clear();
    Py_XDECREF((PyObject *)request);
    return NULL;
}

int request_add_type(PyObject *module, struct module_state *state)
{
    state->start_response_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &request_spec, NULL);
    return state->start_response_type == NULL ? -1 : 0;
}
