/*
 * The parts of the WSGI wrapper, inside: what a request is, and what goes to the server in place of the
 * application's iterable. See wsgi.c for the whole.
 */
#ifndef PYBIND_WSGI_H
#define PYBIND_WSGI_H

#include "pybind/path.h"
#include "pybind/pybind.h"

/** One request: its action, and the start_response that the application gets. */
struct request {
    PyObject_HEAD struct module_state *state;
    PyObject *start_response; /* the server's */
    PyObject *environ;        /* until the action has ended */
    PyObject *name;           /* action type, as soon as it is settled; or NULL */
    struct action_object *action;
    bool error;
    size_t path_length;
    char path[PATH_NAME_MAX]; /* normalised */
};

/**
 * Begin the action of a request to an application wrapped as `name` (NULL: named by its route or path). New
 * reference; NULL without an exception if it is to run without an action.
 */
struct request *request_begin(struct module_state *state, PyObject *module, PyObject *name,
                              PyObject *wsgi_environ, PyObject *start_response);

/** End the action; harmless when it has ended. Leaves a pending exception as it is. */
void request_finish(struct request *self);

/**
 * What goes to the server in place of `result` (its reference is taken over): a body that ends the action at
 * its close(), or a file wrapper as it is, with its close() hooked. Never fails: at worst the action ends
 * here.
 */
PyObject *body_of(struct request *request, PyObject *result);

int request_add_type(PyObject *module, struct module_state *state);
int body_add_types(PyObject *module, struct module_state *state);

#endif
