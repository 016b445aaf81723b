/*
 * Context: what a ContextVar says in the context that a thread is in, read without the GIL.
 *
 * A thread state points to the context that is current on its thread: a task's own while asyncio runs the
 * task, a greenlet's own while the greenlet runs. A context holds its variables in a hash array mapped trie
 * (HAMT), which never changes once it is there: setting a variable makes the context point to another one. So
 * a few guarded reads along one path of it find a variable's value; what has been freed and used again
 * meanwhile shows as a node of no known type, or as a value that is not of the type that is looked for.
 *
 * The structures are checked at start-up against the C API (context_check).
 */
#ifndef RUNTIME_CPYTHON_CONTEXT_H
#define RUNTIME_CPYTHON_CONTEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/cpython/copy.h"

enum context_answer {
    CONTEXT_UNREADABLE = -1,
    CONTEXT_UNSET = 0,
    CONTEXT_SET = 1,
};

/** What a look-up found. */
struct context_look {
    uintptr_t value; /* address of the object that the variable is set to */
    uintptr_t type;  /* of the objects that matter, as context_watch was told */
};

/**
 * Look for the value of `variable` (a ContextVar object) in this interpreter's contexts from now on; objects
 * of `type` are what matters among its values. Each interpreter has one; another one takes its place. GIL
 * held. 0, or -errno with fault_text().
 */
int context_watch(void *variable, void *type);

/** The interpreter is going away, or the variable is: look no longer. GIL held. */
void context_unwatch(void *variable);

/**
 * The value of the watched variable of `interpreter` in the context at `context`. Sampler thread; guarded
 * reads only. CONTEXT_UNSET also where nothing is watched.
 */
enum context_answer context_find(struct copy *copy, uintptr_t interpreter, uintptr_t context,
                                 struct context_look *out);

/**
 * The calling thread's current context (0: none yet). `*entered`: by Context.run(), as each step of a task
 * is; it is not the thread's or the greenlet's own, which since 3.14 a thread enters as well, before all
 * else. GIL held. A few ns.
 */
uintptr_t context_here(bool *entered);

/**
 * A ContextVar has noted what it was last set to or found to be, to be found sooner, and holds no reference
 * to it. Have it look in the context next time. GIL held.
 */
void context_forget_cached(void *variable);

/**
 * Compare the look-up with the C API's, in contexts of no, one, some and many variables. GIL held; leaves the
 * current context as it is. 0, or -EPROTO with fault_text().
 */
int context_check(struct copy *copy);

#endif
