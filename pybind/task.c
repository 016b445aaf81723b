/* The coroutine of the task that a profiled action was begun in: where it waits when no thread runs it. */
#include "pybind/pybind.h"

#include "runtime/waits.h"

/* The coroutine of asyncio's current task, new reference; NULL without an exception if there is none. What
 * the application has not imported is not imported. */
static PyObject *current_coroutine(struct module_state *state)
{
    PyObject *modules = PyImport_GetModuleDict(); /* borrowed */
    PyObject *asyncio = modules != NULL ? PyDict_GetItemWithError(modules, state->str_asyncio) : NULL;
    PyObject *task = NULL, *coroutine = NULL;
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

void task_enter(struct action_object *self)
{
    struct action *action = &self->action;
    if (action->serial == 0 || !action->in_task)
        return;
    PyObject *coroutine = current_coroutine(self->state);
    if (coroutine == NULL)
        return;
    struct action_object *outer = self->parent;
    PyObject *reference = PyWeakref_NewRef(coroutine, NULL);
    if (reference == NULL)
        PyErr_Clear();
    Py_DECREF(coroutine);
    /* There is one reference without a callback to an object, so equal ones are of the same coroutine. */
    if (reference != NULL && outer != NULL && outer->action.wait != NO_WAIT &&
        outer->coroutine == reference) {
        action->wait = outer->action.wait;
        wait_pass(action->wait, outer->action.serial, action->serial);
    } else if (reference != NULL) {
        action->wait = (int16_t)wait_begin(action->serial, action->begin_ns, (uintptr_t)reference);
        action->keeps_wait = action->wait != NO_WAIT;
    }
    Py_XSETREF(self->coroutine, reference);
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
