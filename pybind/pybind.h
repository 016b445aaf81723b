/*
 * The extension's own borders: what its files share. Types are heap types with per-module state, so that
 * sub-interpreters that share the GIL (uWSGI with several mounted applications) each have their own.
 */
#ifndef PYBIND_PYBIND_H
#define PYBIND_PYBIND_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "runtime/action.h"

/* Keys and names that hooks look up at each request, made once. */
#define POM_NAMES(X)                                                                                         \
    X(PATH_INFO, "PATH_INFO")                                                                                \
    X(SCRIPT_NAME, "SCRIPT_NAME")                                                                            \
    X(HTTP_X_TASK_UUID, "HTTP_X_TASK_UUID")                                                                  \
    X(HTTP_TRACEPARENT, "HTTP_TRACEPARENT")                                                                  \
    X(task_key, "profilomatic.task_uuid")                                                                    \
    X(file_wrapper, "wsgi.file_wrapper")                                                                     \
    X(werkzeug_request, "werkzeug.request")                                                                  \
    X(url_rule, "url_rule")                                                                                  \
    X(route_key, "profilomatic.route")                                                                       \
    X(bottle_route, "bottle.route")                                                                          \
    X(rule, "rule")                                                                                          \
    X(close, "close")                                                                                        \
    X(header, "X-Task-UUID")                                                                                 \
    X(type, "type")                                                                                          \
    X(path, "path")                                                                                          \
    X(root_path, "root_path")                                                                                \
    X(headers, "headers")                                                                                    \
    X(status, "status")                                                                                      \
    X(route, "route")                                                                                        \
    X(endpoint, "endpoint")                                                                                  \
    X(asyncio, "asyncio")                                                                                    \
    X(current_task, "current_task")                                                                          \
    X(get_coro, "get_coro")                                                                                  \
    X(greenlet, "greenlet")                                                                                  \
    X(getcurrent, "getcurrent")                                                                              \
    X(parent, "parent")                                                                                      \
    X(gr_frame, "gr_frame")

struct module_state {
    PyTypeObject *action_type;
    PyTypeObject *application_type;
    PyTypeObject *start_response_type;
    PyTypeObject *body_type;
    PyTypeObject *sized_body_type;
    PyTypeObject *closer_type;
    PyTypeObject *asgi_request_type;
    PyTypeObject *carrier_type;
    PyObject *current;   /* ContextVar: the action that this context is in, or None */
    PyObject *kept;      /* list of what must outlive a collection (current.c), or NULL */
    PyObject *template;  /* callable(environ) -> str | None, or NULL */
    PyObject *pump;      /* callable(), or NULL */
    PyObject *noter;     /* callable(action), or NULL */
    PyObject *on_attach; /* callable(), or NULL */
    uint32_t attachment; /* the one that on_attach was told of: worker.attachment, 0 none */
#define X(field, text) PyObject *str_##field;
    POM_NAMES(X)
#undef X
};

extern struct PyModuleDef pom_module;

/** An action as Python holds it. */
struct action_object {
    PyObject_HEAD struct action action;
    struct module_state *state;
    PyObject *module;             /* keeps the state alive */
    PyObject *name;               /* str */
    struct action_object *parent; /* the one that was current at begin; once this one has ended, the innermost
                                     that was open then; or NULL */
    PyObject *uuid_text;          /* str, made when asked for */
    PyObject *unit; /* weak reference to that of the task, or to the greenlet, in which a profiled
                       one was begun */
    bool entered;   /* the ContextVar was set to this object */
    bool used;      /* it was begun before: others may refer to it as their parent */
};

/** A new action object (not begun). `uuid_text` may be NULL. New reference, or NULL with an exception. */
struct action_object *action_object_new(struct module_state *state, PyObject *module, PyObject *name,
                                        PyObject *uuid_text);

/** Begin it as a child of the current one, and make it current. `hint` is what is known of its name, settled
 * or not. Never raises. */
void action_object_begin(struct action_object *self, const char *hint, size_t length, bool settled);

/** End it with the type `name`, and make the former one current. Never raises; twice is harmless. */
void action_object_end(struct action_object *self, const char *name, size_t length, bool error);

/**
 * Before it is ended because whoever would have ended it is being freed: its end will leave the context
 * alone. That may be in the middle of a change to the context, which would not survive another one.
 */
void action_object_abandon(struct action_object *self);

/** A uuid as text with dashes; new reference. */
PyObject *action_format_uuid(const uint8_t uuid[16]);

/** Its task uuid as text, borrowed; NULL with an exception. */
PyObject *action_object_uuid(struct action_object *self);

/** The live current action of this context, borrowed, or NULL. Never raises. */
struct action_object *action_current(struct module_state *state);

/** Set the ContextVar to an action, or None. False if it stays as it is. Never raises. */
bool current_set(struct module_state *state, PyObject *value);

/** Let go what was kept for a collection, if that is over. To be called where state->kept is not NULL. */
void current_let_go(struct module_state *state);

/** current(), set_current(action) and longest_text(). */
PyObject *action_text_most_method(PyObject *module, PyObject *unused);
PyObject *action_current_method(PyObject *module, PyObject *unused);
PyObject *action_set_current_method(PyObject *module, PyObject *value);

/** Attach this process if need be, and tell this interpreter's on_attach of it, once. True if attached. */
bool module_attach(struct module_state *state);

/**
 * A callable that we called for ourselves has raised: count it and tell it once, or drop it (`where` NULL).
 * What a signal handler raised meanwhile to end the program (KeyboardInterrupt, SystemExit) is raised again
 * soon.
 */
void hook_failed(PyObject *where);

int action_add_type(PyObject *module, struct module_state *state);
int wsgi_add_types(PyObject *module, struct module_state *state);
int asgi_add_type(PyObject *module, struct module_state *state);
int carry_add_type(PyObject *module, struct module_state *state);

/** A profiled action was begun, or is about to end: note, or forget, in which task. */
void task_enter(struct action_object *self);
void task_leave(struct action_object *self);

/** Make an action object, or None, the current one of this context. Never raises. */
void action_make_current(struct module_state *state, PyObject *action);

/** carry(function) and carried_context(). */
PyObject *carry(PyObject *module, PyObject *function);
PyObject *carried_context(PyObject *module, PyObject *unused);

/** asgi_begin(scope, send, name). */
PyObject *asgi_begin(PyObject *module, PyObject *const *args, Py_ssize_t count);

/** wrap(app, name=None). */
PyObject *wsgi_wrap(PyObject *module, PyObject *args, PyObject *kwargs);

#endif
