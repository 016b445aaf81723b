/*
 * The C half of the ASGI wrapper (asgi.py is the other): one request, from its begin to the end of its
 * action. The object is the `send` that the application gets: that is where the status is seen and
 * X-Task-UUID goes out. It hands on what the server's send returns, so nothing is put between the two in what
 * is awaited.
 */
#include "pybind/path.h"
#include "pybind/pybind.h"
#include "pybind/traceparent.h"

#include "runtime/worker.h"

struct asgi_request {
    PyObject_HEAD struct module_state *state;
    PyObject *send;      /* the server's */
    PyObject *scope;     /* until the action has ended */
    PyObject *root_path; /* what the server said it is, or NULL; mounted applications append to it */
    PyObject *name;      /* action type, if it is settled; or NULL */
    struct action_object *action;
    bool error;
    size_t path_length;
    char path[PATH_NAME_MAX]; /* normalised */
};

/* Borrowed, or NULL without an exception. */
static PyObject *get(PyObject *dict, PyObject *key)
{
    PyObject *value = PyDict_GetItemWithError(dict, key);
    if (value == NULL)
        PyErr_Clear();
    return value;
}

static const char *utf8(PyObject *text, size_t *length)
{
    Py_ssize_t bytes = 0;
    const char *found = text != NULL && PyUnicode_Check(text) ? PyUnicode_AsUTF8AndSize(text, &bytes) : NULL;
    if (found == NULL) { /* a lone surrogate; from 3.13 on the length is -1 then */
        PyErr_Clear();
        found = "";
        bytes = 0;
    }
    *length = (size_t)bytes;
    return found;
}

static bool is_header(PyObject *name, const char *wanted, size_t length)
{
    return PyBytes_Check(name) && PyBytes_GET_SIZE(name) == (Py_ssize_t)length &&
           strncasecmp(PyBytes_AS_STRING(name), wanted, length) == 0;
}

/* The value of the header, borrowed, or NULL. `headers`: a list of pairs of bytes. */
static PyObject *find_header(PyObject *headers, const char *wanted)
{
    const size_t length = strlen(wanted);
    if (headers == NULL || !PyList_Check(headers))
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++) {
        PyObject *pair = PyList_GET_ITEM(headers, i), *name, *value;
        if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2)
            name = PyTuple_GET_ITEM(pair, 0), value = PyTuple_GET_ITEM(pair, 1);
        else if (PyList_Check(pair) && PyList_GET_SIZE(pair) == 2)
            name = PyList_GET_ITEM(pair, 0), value = PyList_GET_ITEM(pair, 1);
        else
            continue;
        if (is_header(name, wanted, length) && PyBytes_Check(value))
            return value;
    }
    return NULL;
}

/* ---- begin --------------------------------------------------------------------------------------------- */

/* Whether this is a request that shall be an action. A wrapper inside a wrapper lets it through: the outer
 * one counts. */
static bool is_request(struct module_state *state, PyObject *scope)
{
    if (!worker.enabled || !PyDict_Check(scope))
        return false;
    PyObject *type = get(scope, state->str_type);
    if (type == NULL || !PyUnicode_Check(type) ||
        (PyUnicode_CompareWithASCIIString(type, "http") != 0 &&
         PyUnicode_CompareWithASCIIString(type, "websocket") != 0))
        return false;
    return get(scope, state->str_task_key) == NULL;
}

/* The task that the request belongs to by its headers, as a new reference to a str; NULL without an
 * exception.
 */
static PyObject *given_uuid(PyObject *headers)
{
    struct traceparent parent;
    PyObject *uuid = NULL, *value = find_header(headers, "x-task-uuid");
    if (value != NULL)
        uuid = PyUnicode_DecodeLatin1(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), NULL);
    else if ((value = find_header(headers, "traceparent")) != NULL &&
             traceparent_parse(PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value), &parent))
        uuid = action_format_uuid(parent.trace_id);
    if (uuid == NULL)
        PyErr_Clear();
    return uuid;
}

static bool begin(struct asgi_request *self, PyObject *module)
{
    struct module_state *state = self->state;
    size_t length;
    const char *path = utf8(get(self->scope, state->str_path), &length);
    self->path_length = path_normalise(path, length, self->path);
    self->root_path = Py_XNewRef(get(self->scope, state->str_root_path));
    PyObject *given = given_uuid(get(self->scope, state->str_headers));
    self->action = action_object_new(state, module, NULL, given);
    Py_XDECREF(given);
    if (self->action == NULL)
        return false;
    const char *hint = self->path;
    length = self->path_length;
    if (self->name != NULL)
        hint = utf8(self->name, &length);
    action_object_begin(self->action, hint, length, self->name != NULL);
    PyObject *uuid = self->action->action.open ? action_object_uuid(self->action) : NULL;
    return uuid != NULL && PyDict_SetItem(self->scope, state->str_task_key, uuid) == 0;
}

PyObject *asgi_begin(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    struct module_state *state = PyModule_GetState(module);
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "asgi_begin takes 3 arguments, not %zd", count);
    if (!is_request(state, args[0]))
        Py_RETURN_NONE;
    struct meter_mark mark = meter_enter(&worker.meter);
    PyTypeObject *type = state->asgi_request_type;
    struct asgi_request *self = (struct asgi_request *)type->tp_alloc(type, 0);
    bool begun = false;
    if (self != NULL) {
        self->state = state;
        self->scope = Py_NewRef(args[0]);
        self->send = Py_NewRef(args[1]);
        self->name = PyUnicode_Check(args[2]) ? Py_NewRef(args[2]) : NULL;
        begun = begin(self, module);
    }
    meter_leave(&worker.meter, mark);
    if (begun)
        return (PyObject *)self;
    PyErr_Clear();
    Py_XDECREF((PyObject *)self);
    Py_RETURN_NONE; /* it runs without an action */
}

/* ---- end ----------------------------------------------------------------------------------------------- */

/* An attribute that is a str, new reference; NULL without an exception. */
static PyObject *text_attribute(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL)
        hook_failed(NULL);
    else if (!PyUnicode_Check(value))
        Py_CLEAR(value);
    return value;
}

/* Where mounted applications lie below what the server called the root, normalised. */
static size_t mounted_at(struct asgi_request *self, char out[PATH_NAME_MAX])
{
    size_t length, root_length;
    const char *now = utf8(get(self->scope, self->state->str_root_path), &length);
    const char *root = utf8(self->root_path, &root_length);
    if (length <= root_length || memcmp(now, root, root_length) != 0)
        return 0;
    return path_normalise(now + root_length, length - root_length, out);
}

/*
 * The route template, into `out`: Starlette and what stands on it leave the route in the scope. A mount's own
 * path is part of the root path by then.
 */
static size_t route_template(struct asgi_request *self, char out[2 * PATH_NAME_MAX])
{
    struct module_state *state = self->state;
    size_t noted_length;
    const char *noted = utf8(get(self->scope, state->str_route_key), &noted_length);
    if (noted_length != 0) { /* by frameworks.py, or by the application */
        if (noted_length > PATH_NAME_MAX)
            noted_length = PATH_NAME_MAX;
        memcpy(out, noted, noted_length);
        return noted_length;
    }
    PyObject *route = get(self->scope, state->str_route);
    if (route == NULL || route == Py_None)
        return 0;
    Py_INCREF(route);
    size_t used = mounted_at(self, out), length = 0;
    PyObject *endpoint = PyObject_GetAttr(route, state->str_endpoint);
    if (endpoint == NULL)
        hook_failed(NULL);
    PyObject *path = endpoint != NULL || used == 0 ? text_attribute(route, state->str_path) : NULL;
    Py_XDECREF(endpoint);
    Py_DECREF(route);
    const char *text = utf8(path, &length);
    if (length > PATH_NAME_MAX)
        length = PATH_NAME_MAX;
    memcpy(out + used, text, length);
    Py_XDECREF(path);
    return used + length;
}

static void finish(struct asgi_request *self)
{
    if (self->action == NULL || !self->action->action.open)
        return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    struct meter_mark mark = meter_enter(&worker.meter);
    char template[2 * PATH_NAME_MAX];
    size_t length;
    const char *name = self->path;
    if (self->name != NULL) {
        name = utf8(self->name, &length);
    } else if ((length = route_template(self, template)) != 0) {
        name = template;
    } else {
        length = self->path_length;
    }
    action_object_end(self->action, name, length, self->error);
    Py_CLEAR(self->scope);
    meter_leave(&worker.meter, mark);
    PyErr_Restore(type, value, traceback);
}

static PyObject *end_method(PyObject *object, PyObject *failed)
{
    struct asgi_request *self = (struct asgi_request *)object;
    self->error |= failed == Py_True;
    finish(self);
    Py_RETURN_NONE;
}

/* ---- send ---------------------------------------------------------------------------------------------- */

/* The message with our header at the end of its headers; NULL without an exception if it is to stay as it is.
 */
static PyObject *with_task_uuid(struct asgi_request *self, PyObject *message)
{
    struct module_state *state = self->state;
    PyObject *headers = get(message, state->str_headers), *copy = NULL, *changed = NULL;
    size_t length;
    if (headers == NULL)
        copy = PyList_New(0);
    else if ((PyList_Check(headers) || PyTuple_Check(headers)) && find_header(headers, "x-task-uuid") == NULL)
        copy = PySequence_List(headers);
    PyObject *uuid = copy != NULL ? action_object_uuid(self->action) : NULL;
    const char *text = utf8(uuid, &length);
    PyObject *header = uuid != NULL
                           ? Py_BuildValue("(y#y#)", "x-task-uuid", (Py_ssize_t)11, text, (Py_ssize_t)length)
                           : NULL;
    if (header != NULL && PyList_Append(copy, header) == 0 && (changed = PyDict_Copy(message)) != NULL &&
        PyDict_SetItem(changed, state->str_headers, copy) != 0)
        Py_CLEAR(changed);
    Py_XDECREF(header);
    Py_XDECREF(copy);
    PyErr_Clear();
    return changed;
}

/* NULL without an exception: the message goes on as it is. */
static PyObject *look_at(struct asgi_request *self, PyObject *message)
{
    if (!PyDict_Check(message))
        return NULL;
    PyObject *type = get(message, self->state->str_type);
    if (type == NULL || !PyUnicode_Check(type) ||
        PyUnicode_CompareWithASCIIString(type, "http.response.start") != 0)
        return NULL;
    struct meter_mark mark = meter_enter(&worker.meter);
    PyObject *status = get(message, self->state->str_status);
    long code = status != NULL && PyLong_Check(status) ? PyLong_AsLong(status) : 0;
    PyErr_Clear();
    self->error |= code >= 500;
    PyObject *changed = self->action != NULL ? with_task_uuid(self, message) : NULL;
    meter_leave(&worker.meter, mark);
    return changed;
}

static PyObject *call_send(PyObject *object, PyObject *args, PyObject *kwargs)
{
    struct asgi_request *self = (struct asgi_request *)object;
    if (self->send == NULL) /* the garbage collector has taken us apart */
        return PyErr_Format(PyExc_RuntimeError, "the server's send has gone");
    PyObject *changed = NULL;
    if (PyTuple_GET_SIZE(args) == 1 && kwargs == NULL)
        changed = look_at(self, PyTuple_GET_ITEM(args, 0));
    if (changed == NULL)
        return PyObject_Call(self->send, args, kwargs);
    PyObject *result = PyObject_CallOneArg(self->send, changed);
    Py_DECREF(changed);
    return result;
}

/* ---- the type ------------------------------------------------------------------------------------------ */

static int traverse(PyObject *object, visitproc visit, void *arg)
{
    struct asgi_request *self = (struct asgi_request *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->send);
    Py_VISIT(self->scope);
    return 0;
}

static int clear(PyObject *object)
{
    struct asgi_request *self = (struct asgi_request *)object;
    if (self->action != NULL)
        action_object_abandon(self->action);
    finish(self);
    Py_CLEAR(self->send);
    Py_CLEAR(self->scope);
    return 0;
}

static void dealloc(PyObject *object)
{
    struct asgi_request *self = (struct asgi_request *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    clear(object);
    Py_XDECREF(self->root_path);
    Py_XDECREF(self->name);
    Py_XDECREF((PyObject *)self->action);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"end", end_method, METH_O, "end($self, failed, /)\n--\n\nEnd the request's action. Twice is harmless."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots_of_type[] = {
    {Py_tp_call, call_send}, {Py_tp_methods, methods}, {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},    {Py_tp_dealloc, dealloc}, {0, NULL},
};

static PyType_Spec spec = {
    .name = "profilomatic._runtime.AsgiRequest",
    .basicsize = sizeof(struct asgi_request),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots_of_type,
};

int asgi_add_type(PyObject *module, struct module_state *state)
{
    state->asgi_request_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
    return state->asgi_request_type == NULL ? -1 : PyModule_AddType(module, state->asgi_request_type);
}
