/* The task or greenlet that a profiled action was begun in: where it waits when no thread runs it. */
#include "pybind/pybind.h"

#include "runtime/cpython/greenlet.h"
#include "runtime/waits.h"

/* A module that the application has imported, borrowed; NULL without an exception. */
static PyObject *imported(PyObject *name)
{
    PyObject *modules = PyImport_GetModuleDict(); /* borrowed */
    PyObject *module = modules != NULL ? PyDict_GetItemWithError(modules, name) : NULL;
    if (module == NULL)
        PyErr_Clear();
    return module;
}

/* The coroutine of asyncio's current task, new reference; NULL without an exception if there is none. */
static PyObject *current_coroutine(struct module_state *state)
{
    PyObject *asyncio = imported(state->str_asyncio), *task = NULL, *coroutine = NULL;
    if (asyncio != NULL)
        task = PyObject_CallMethodNoArgs(asyncio, state->str_current_task);
    if (task != NULL && task != Py_None)
        coroutine = PyObject_CallMethodNoArgs(task, state->str_get_coro);
    if (PyErr_Occurred() != NULL)
        hook_failed(NULL); /* no loop runs on this thread */
    if (coroutine != NULL && !PyCoro_CheckExact(coroutine))
        Py_CLEAR(coroutine);
    Py_XDECREF(task);
    return coroutine;
}

/* The current greenlet, new reference; NULL without an exception if that is the thread itself. Its parent,
 * which mostly is switched out while it runs, shows how the stacks of greenlets are read. */
static PyObject *current_greenlet(struct module_state *state)
{
    PyObject *module = imported(state->str_greenlet), *parent = NULL, *frame = NULL;
    PyObject *current = module != NULL ? PyObject_CallMethodNoArgs(module, state->str_getcurrent) : NULL;
    if (current != NULL)
        parent = PyObject_GetAttr(current, state->str_parent);
    if (parent != NULL && parent != Py_None)
        frame = PyObject_GetAttr(parent, state->str_gr_frame);
    if (PyErr_Occurred() != NULL)
        hook_failed(NULL);
    if (parent == NULL || parent == Py_None)
        Py_CLEAR(current);
    else if (frame != NULL && frame != Py_None)
        greenlet_learn((uintptr_t)parent, (uintptr_t)frame, (uintptr_t)current);
    Py_XDECREF(frame);
    Py_XDECREF(parent);
    return current;
}

void task_enter(struct action_object *self)
{
    struct action *action = &self->action;
    if (!action_is_profiled(action))
        return;
    PyObject *coroutine = action->in_task ? current_coroutine(self->state) : NULL;
    PyObject *unit = coroutine != NULL ? coroutine : current_greenlet(self->state);
    if (unit == NULL)
        return;
    struct action_object *outer = self->parent;
    PyObject *reference = PyWeakref_NewRef(unit, NULL);
    if (reference == NULL)
        PyErr_Clear();
    Py_DECREF(unit);
    /* There is one reference without a callback to an object, so equal ones are to the same. */
    if (reference != NULL && outer != NULL && outer->action.wait != NO_WAIT && outer->unit == reference) {
        action->wait = outer->action.wait;
        wait_pass(action->wait, outer->action.serial, action->serial);
    } else if (reference != NULL) {
        enum wait_unit kind = coroutine != NULL ? WAIT_COROUTINE : WAIT_GREENLET;
        action->wait = (int16_t)wait_begin(action->serial, action->begin_ns, kind, (uintptr_t)reference);
        action->keeps_wait = action->wait != NO_WAIT;
    }
    Py_XSETREF(self->unit, reference);
}

void task_leave(struct action_object *self)
{
    struct action *action = &self->action;
    const int row = action->wait;
    if (row == NO_WAIT || !action_is_live(action))
        return;
    const struct action_object *outer = self->parent;
    action->wait = NO_WAIT;
    if (action->keeps_wait)
        wait_end(row);
    else if (outer != NULL && outer->action.wait == row)
        wait_pass(row, action->serial, outer->action.serial);
}
