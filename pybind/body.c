/*
 * What a server gets in place of the application's iterable: a body that passes everything through and ends
 * the action at close() (PEP 3333), or the application's file wrapper itself with a hook at its close().
 */
#include "pybind/wsgi.h"

struct body {
    PyObject_HEAD struct request *request;
    PyObject *iterable; /* what the application returned */
    PyObject *iterator; /* made at the first step */
};

struct closer {
    PyObject_HEAD struct request *request;
    PyObject *close; /* the file wrapper's own, or NULL */
};

/* A body that the garbage collector has taken apart has no request any more. */
static void note_error(struct request *request)
{
    if (request != NULL)
        request->error = true;
}

static PyObject *next_of_body(PyObject *object)
{
    struct body *self = (struct body *)object;
    if (self->iterator == NULL) {
        if (self->iterable == NULL)
            return NULL;
        self->iterator = PyObject_GetIter(self->iterable);
        if (self->iterator == NULL) {
            note_error(self->request);
            return NULL;
        }
    }
    PyObject *iterator = Py_NewRef(self->iterator); /* another thread may close() us meanwhile */
    PyObject *item = Py_TYPE(iterator)->tp_iternext(iterator);
    if (item == NULL && PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_StopIteration))
        note_error(self->request);
    Py_DECREF(iterator);
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
    request_finish(self->request);
    Py_DECREF(iterable);
    return result;
}

/* Servers take len() == 1 as a sign that the body is complete. Only bodies of iterables that have a length
 * have one: servers look for `__len__`, and an object with one is false where it is 0. */
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

/* Who is no server may look at what it got as at what the application returned (Django's response). */
static PyObject *attribute_of_body(PyObject *object, PyObject *name)
{
    struct body *self = (struct body *)object;
    PyObject *own = PyObject_GenericGetAttr(object, name);
    if (own != NULL || self->iterable == NULL || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return own;
    PyErr_Clear();
    PyObject *iterable = Py_NewRef(self->iterable);
    PyObject *found = PyObject_GetAttr(iterable, name);
    Py_DECREF(iterable);
    return found;
}

static PyObject *bytes_of_body(PyObject *object, PyObject *unused)
{
    struct body *self = (struct body *)object;
    PyObject *iterable = Py_NewRef(self->iterable != NULL ? self->iterable : Py_None);
    PyObject *bytes = PyObject_Bytes(iterable);
    Py_DECREF(iterable);
    return bytes;
}

static PyMethodDef body_methods[] = {
    {"close", close_body, METH_NOARGS,
     "close($self, /)\n--\n\nClose the application's iterable and end the action."},
    {"__bytes__", bytes_of_body, METH_NOARGS,
     "__bytes__($self, /)\n--\n\nWhat bytes() makes of the application's iterable."},
    {NULL, NULL, 0, NULL},
};

#define BODY_SLOTS                                                                                           \
    {Py_tp_iter, PyObject_SelfIter}, {Py_tp_iternext, next_of_body}, {Py_tp_methods, body_methods},          \
        {Py_tp_getattro, attribute_of_body}, {Py_tp_traverse, traverse_body}, {Py_tp_clear, clear_body},     \
    {                                                                                                        \
        Py_tp_dealloc, dealloc_body                                                                          \
    }

static PyType_Slot body_slots[] = {BODY_SLOTS, {0, NULL}};
static PyType_Slot sized_body_slots[] = {BODY_SLOTS, {Py_sq_length, length_of_body}, {0, NULL}};

enum {
    BODY_FLAGS =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION
};

static PyType_Spec body_spec = {
    .name = "profilomatic._runtime.Body",
    .basicsize = sizeof(struct body),
    .flags = BODY_FLAGS,
    .slots = body_slots,
};

static PyType_Spec sized_body_spec = {
    .name = "profilomatic._runtime.SizedBody",
    .basicsize = sizeof(struct body),
    .flags = BODY_FLAGS,
    .slots = sized_body_slots,
};

/* ---- file wrappers ------------------------------------------------------------------------------------- */

static PyObject *call_closer(PyObject *object, PyObject *args, PyObject *kwargs)
{
    struct closer *self = (struct closer *)object;
    /* Once: the wrapper refers to us and its own close() to the wrapper, and that shall not wait for the
     * garbage collector. */
    PyObject *close = self->close;
    self->close = NULL;
    PyObject *result = close != NULL ? PyObject_Call(close, args, kwargs) : Py_NewRef(Py_None);
    if (result == NULL)
        note_error(self->request);
    if (self->request != NULL)
        request_finish(self->request);
    Py_XDECREF(close);
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
    if (wrapper == NULL)
        PyErr_Clear();
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
    request_finish(request);
}

/* What is no iterable of chunks goes to the server as it is: uWSGI sends plain bytes whole, and whatever else
 * it may be, the server's own way with it is the right one. */
static bool is_iterable_of_chunks(PyObject *result)
{
    return (Py_TYPE(result)->tp_iter != NULL || PySequence_Check(result)) && !PyBytes_Check(result) &&
           !PyByteArray_Check(result) && !PyUnicode_Check(result);
}

static bool has_length(PyObject *result)
{
    const PyTypeObject *type = Py_TYPE(result);
    return (type->tp_as_sequence != NULL && type->tp_as_sequence->sq_length != NULL) ||
           (type->tp_as_mapping != NULL && type->tp_as_mapping->mp_length != NULL);
}

PyObject *body_of(struct request *request, PyObject *result)
{
    if (is_file_wrapper(request, result)) {
        hook_close(request, result);
        return result;
    }
    if (!is_iterable_of_chunks(result)) {
        request_finish(request);
        return result;
    }
    PyTypeObject *type = has_length(result) ? request->state->sized_body_type : request->state->body_type;
    struct body *body = (struct body *)type->tp_alloc(type, 0);
    if (body == NULL) {
        PyErr_Clear();
        request_finish(request);
        return result;
    }
    body->request = (struct request *)Py_NewRef((PyObject *)request);
    body->iterable = result;
    return (PyObject *)body;
}

int body_add_types(PyObject *module, struct module_state *state)
{
    state->body_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &body_spec, NULL);
    state->sized_body_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &sized_body_spec, NULL);
    state->closer_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &closer_spec, NULL);
    return state->body_type == NULL || state->sized_body_type == NULL || state->closer_type == NULL ? -1 : 0;
}
