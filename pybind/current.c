/*
 * Current: setting the ContextVar that says which action a context is in, also where the garbage collector
 * may be at work in the middle of a change to that very context (collector.h).
 *
 * Whoever changes a context there, in CPython or in the application, goes on with the variables as they were
 * before the collection, to which it holds no reference. So they are kept alive by a copy of the context, and
 * what it makes of them will lack the action that was set meanwhile: that action then is open without being
 * current. The ContextVar has its last value noted in itself without a reference, so that value is kept too,
 * until it has been forgotten there. Both are let go at the first look when no collection runs.
 */
#include "pybind/pybind.h"

#include "runtime/cpython/collector.h"
#include "runtime/cpython/context.h"

static bool keep(struct module_state *state, PyObject *object)
{
    bool kept = object != NULL && (state->kept != NULL || (state->kept = PyList_New(0)) != NULL) &&
                PyList_Append(state->kept, object) == 0;
    if (!kept)
        PyErr_Clear();
    return kept;
}

/* Whether the variable may be set to `value` here and now, in the middle of a collection. */
static bool prepare(struct module_state *state, PyObject *value)
{
    bool entered;
    if (context_here(&entered) == 0) /* it may just be being made */
        return false;
    PyObject *copy = PyContext_CopyCurrent();
    bool prepared = keep(state, copy) && keep(state, value);
    Py_XDECREF(copy);
    return prepared;
}

void current_let_go(struct module_state *state)
{
    if (collector_may_interrupt())
        return;
    PyObject *type, *value, *traceback, *kept = state->kept;
    state->kept = NULL;
    context_forget_cached(state->current);
    PyErr_Fetch(&type, &value, &traceback);
    Py_DECREF(kept); /* which may run anything */
    PyErr_Restore(type, value, traceback);
}

bool current_set(struct module_state *state, PyObject *value)
{
    if (state->kept != NULL)
        current_let_go(state);
    if (collector_may_interrupt() && !prepare(state, value))
        return false;
    PyObject *token = PyContextVar_Set(state->current, value);
    if (token == NULL)
        PyErr_Clear();
    Py_XDECREF(token);
    return token != NULL;
}
