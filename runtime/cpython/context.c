/* Look-ups in contexts without the GIL: see context.h. */
#include "runtime/cpython/context.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "runtime/cpython/layout.h"
#include "shm/fault.h"

#include <internal/pycore_context.h>

enum {
    WATCHED = 16, /* interpreters with a variable of their own */
    NODE_BITS = 5,
    NODE_CELLS = 1 << NODE_BITS,
    LEVELS = 7, /* of 5 bits of a 32-bit hash; what is below them only equal hashes reach */
    CHECKED_VARIABLES = 240,
};

/* The nodes of the trie, as Python/hamt.c has them: its header does not tell. */
struct bitmap_node {
    PyObject_VAR_HEAD uint32_t bitmap;
    uintptr_t cell[NODE_CELLS]; /* key and value, or NULL and a node, for each bit that is set */
};
struct array_node {
    PyObject_HEAD uintptr_t node[NODE_CELLS];
};
union node {
    PyObject head;
    struct bitmap_node bitmap;
    struct array_node array;
    uint8_t bytes[sizeof(struct bitmap_node)];
};

/* Written with the GIL held, read by the sampler: a half-changed row finds nothing, once. */
static struct {
    _Atomic uintptr_t interpreter; /* 0: free */
    _Atomic uintptr_t variable, type;
    _Atomic uint32_t hash;
} watched[WATCHED];

/* Types of the nodes, from the first check on. */
static uintptr_t bitmap_type, array_type;

/* ---- what is watched ----------------------------------------------------------------------------------- */

/* The 32 bits of a hash that choose the path. */
static uint32_t path_of(Py_hash_t hash)
{
    uint32_t folded = (uint32_t)((uint64_t)hash & UINT32_MAX) ^ (uint32_t)((uint64_t)hash >> 32);
    return folded == UINT32_MAX ? UINT32_MAX - 1 : folded;
}

int context_watch(void *variable, void *type)
{
    uintptr_t interpreter = (uintptr_t)PyInterpreterState_Get();
    int at = -1;
    for (int i = WATCHED - 1; i >= 0; i--) {
        uintptr_t whose = atomic_load_explicit(&watched[i].interpreter, memory_order_relaxed);
        if (whose == interpreter || (whose == 0 && at < 0))
            at = i;
        if (whose == interpreter)
            break;
    }
    Py_hash_t hash = PyObject_Hash(variable);
    if (hash == -1 && PyErr_Occurred() != NULL) {
        PyErr_Clear();
        return fault(EPROTO, "a ContextVar has no hash");
    }
    if (at < 0)
        return fault(ENOSPC, "more than %d interpreters", WATCHED);
    atomic_store_explicit(&watched[at].variable, (uintptr_t)variable, memory_order_relaxed);
    atomic_store_explicit(&watched[at].type, (uintptr_t)type, memory_order_relaxed);
    atomic_store_explicit(&watched[at].hash, path_of(hash), memory_order_relaxed);
    atomic_store_explicit(&watched[at].interpreter, interpreter, memory_order_release);
    return 0;
}

void context_unwatch(void *variable)
{
    for (int i = 0; i < WATCHED; i++) {
        if (atomic_load_explicit(&watched[i].variable, memory_order_relaxed) == (uintptr_t)variable) {
            atomic_store_explicit(&watched[i].interpreter, 0, memory_order_relaxed);
            atomic_store_explicit(&watched[i].variable, 0, memory_order_relaxed);
        }
    }
}

void context_forget_cached(void *variable)
{
    ((PyContextVar *)variable)->var_cached = NULL;
}

/* ---- looking up ---------------------------------------------------------------------------------------- */

/* Most nodes are smaller than the largest can be, and may lie at the end of what can be read. */
static bool read_node(struct copy *copy, uintptr_t address, union node *out)
{
    if (address == 0 || address % sizeof(void *) != 0)
        return false;
    if (copy_piece(copy, address, out->bytes, sizeof out->bytes))
        return true;
    const size_t head = offsetof(struct bitmap_node, cell);
    memset(out->bytes + head, 0, sizeof out->bytes - head);
    if (!copy_piece(copy, address, out->bytes, head))
        return false;
    if ((uintptr_t)out->head.ob_type != bitmap_type)
        return false;
    size_t cells = 2 * (size_t)__builtin_popcount(out->bitmap.bitmap) * sizeof out->bitmap.cell[0];
    return cells <= sizeof out->bitmap.cell && copy_piece(copy, address + head, out->bytes + head, cells);
}

static enum context_answer find_in_trie(struct copy *copy, uintptr_t root, uintptr_t variable, uint32_t hash,
                                        uintptr_t *value)
{
    uintptr_t address = root;
    for (int level = 0; level < LEVELS; level++, hash >>= NODE_BITS) {
        union node node;
        const uint32_t cell = hash % NODE_CELLS;
        if (!read_node(copy, address, &node))
            return CONTEXT_UNREADABLE;
        if ((uintptr_t)node.head.ob_type == array_type) {
            address = node.array.node[cell];
            if (address == 0)
                return CONTEXT_UNSET;
            continue;
        }
        if ((uintptr_t)node.head.ob_type != bitmap_type)
            return CONTEXT_UNREADABLE;
        const uint32_t bit = UINT32_C(1) << cell, bitmap = node.bitmap.bitmap;
        if ((bitmap & bit) == 0)
            return CONTEXT_UNSET;
        const int before = __builtin_popcount(bitmap & (bit - 1));
        if (before >= NODE_CELLS / 2)
            return CONTEXT_UNREADABLE;
        const uintptr_t *entry = &node.bitmap.cell[2 * before];
        if (entry[0] == 0) {
            address = entry[1];
            continue;
        }
        if (entry[0] != variable)
            return CONTEXT_UNSET;
        *value = entry[1];
        return CONTEXT_SET;
    }
    return CONTEXT_UNREADABLE;
}

static enum context_answer find_variable(struct copy *copy, uintptr_t context, uintptr_t variable,
                                         uint32_t hash, struct context_look *out)
{
    PyContext head;
    PyHamtObject trie;
    if (context % sizeof(void *) != 0 || !copy_piece(copy, context, &head, sizeof head) ||
        (uintptr_t)head.ob_base.ob_type != (uintptr_t)&PyContext_Type || head.ctx_vars == NULL ||
        (uintptr_t)head.ctx_vars % sizeof(void *) != 0 ||
        !copy_piece(copy, (uintptr_t)head.ctx_vars, &trie, sizeof trie))
        return CONTEXT_UNREADABLE;
    return find_in_trie(copy, (uintptr_t)trie.h_root, variable, hash, &out->value);
}

enum context_answer context_find(struct copy *copy, uintptr_t interpreter, uintptr_t context,
                                 struct context_look *out)
{
    *out = (struct context_look){0};
    if (context == 0)
        return CONTEXT_UNSET;
    for (int i = 0; i < WATCHED; i++) {
        if (atomic_load_explicit(&watched[i].interpreter, memory_order_acquire) != interpreter)
            continue;
        out->type = atomic_load_explicit(&watched[i].type, memory_order_relaxed);
        return find_variable(copy, context, atomic_load_explicit(&watched[i].variable, memory_order_relaxed),
                             atomic_load_explicit(&watched[i].hash, memory_order_relaxed), out);
    }
    return CONTEXT_UNSET;
}

/*
 * Is it what the thread runs in from its beginning to its end? There is nothing around that one. Nor is there
 * around a task's on a thread that was not made by threading.Thread and has not needed a context so far, but
 * there a loop runs.
 */
static bool is_threads_own(const PyThreadState *tstate, const PyContext *context)
{
#ifdef RUNNING_LOOP
    return context->ctx_prev == NULL && word_at((const uint8_t *)tstate + RUNNING_LOOP) == 0;
#else
    (void)tstate, (void)context;
    return false;
#endif
}

uintptr_t context_here(bool *entered)
{
    const PyThreadState *tstate = PyThreadState_Get();
    const PyContext *context = (const PyContext *)tstate->context;
    *entered = context != NULL && context->ctx_entered != 0 && !is_threads_own(tstate, context);
    return (uintptr_t)context;
}

/* ---- the start-up check -------------------------------------------------------------------------------- */

/* Does the look-up in the current context find what the C API finds? */
static int compare(struct copy *copy, PyObject *variable, int set)
{
    bool entered;
    struct context_look look = {0};
    PyObject *value = NULL;
    Py_hash_t hash = PyObject_Hash(variable);
    if (PyContextVar_Get(variable, NULL, &value) != 0)
        return fault(EPROTO, "a ContextVar cannot be read");
    enum context_answer answer =
        find_variable(copy, context_here(&entered), (uintptr_t)variable, path_of(hash), &look);
    bool same =
        value != NULL ? answer == CONTEXT_SET && look.value == (uintptr_t)value : answer == CONTEXT_UNSET;
    Py_XDECREF(value);
    return same ? 0 : fault(EPROTO, "a ContextVar is not found among %d others", set);
}

static uintptr_t type_of_root(void)
{
    const PyContext *context = (const PyContext *)PyThreadState_Get()->context;
    return (uintptr_t)Py_TYPE((PyObject *)context->ctx_vars->h_root);
}

static int set_variable(PyObject *variable)
{
    PyObject *token = PyContextVar_Set(variable, variable);
    Py_XDECREF(token);
    return token != NULL ? 0 : fault(EPROTO, "a ContextVar cannot be set");
}

/* In an empty context that was entered: set one variable after the other, and look for some. The root of a
 * trie is a bitmap node as long as it is small, then an array node. */
static int check_entered(struct copy *copy, PyObject *const *variable)
{
    bitmap_type = type_of_root();
    array_type = 0;
    int error = compare(copy, variable[0], 0);
    for (int i = 0; i < CHECKED_VARIABLES && error == 0; i++) {
        error = set_variable(variable[i]);
        if (type_of_root() != bitmap_type)
            array_type = type_of_root();
        if (error != 0 || (i > 2 && i % 24 != 0))
            continue;
        for (int k = 0; k <= i + 1 && error == 0; k += 1 + i / 8)
            error = compare(copy, variable[k], i + 1);
    }
    if (error == 0 && array_type == 0)
        error = fault(EPROTO, "contexts of many variables are not as expected");
    return error;
}

/* Each with a name of its own, so that their hashes are spread as those of an application's. */
static PyObject *make_variable(int i)
{
    char name[40];
    snprintf(name, sizeof name, "profilomatic.check.%d", i);
    return PyContextVar_New(name, NULL);
}

int context_check(struct copy *copy)
{
    PyObject *variable[CHECKED_VARIABLES + 1] = {NULL}, *context = PyContext_New();
    bool made = context != NULL;
    for (int i = 0; i <= CHECKED_VARIABLES && made; i++)
        made = (variable[i] = make_variable(i)) != NULL;
    int error = fault(ENOMEM, "no memory for the start-up check");
    if (made && PyContext_Enter(context) == 0) {
        error = check_entered(copy, variable);
        if (PyContext_Exit(context) != 0 && error == 0)
            error = fault(EPROTO, "a context cannot be left");
    }
    PyErr_Clear();
    for (int i = 0; i <= CHECKED_VARIABLES; i++)
        Py_XDECREF(variable[i]);
    Py_XDECREF(context);
    return error;
}
