/*
 * Owner: whose is what a thread does now? The profiled action that the thread's current context says, read
 * without the GIL: the context's value of our ContextVar is an object of pybind's, in which lie the action
 * and a reference to the object of the action around it. One that has ended (in another context: a task that
 * outlives the request which made it) hands over to the next one out that has not.
 */
#ifndef RUNTIME_OWNER_H
#define RUNTIME_OWNER_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/cpython/context.h"

enum {
    OWNER_OBJECT_MOST = 512, /* bytes of such an object */
};

/** How the objects lie that the ContextVar is set to: the same in every interpreter. */
struct owner_layout {
    size_t bytes;
    size_t type_at;   /* the address of its type */
    size_t action_at; /* a struct action */
    size_t parent_at; /* the address of the object around it, or NULL */
};

/** Say it, before the first owner_find. GIL held. */
void owner_set_layout(const struct owner_layout *layout);

struct owner {
    uint64_t serial;   /* 0: no profiled action that is open */
    uint64_t begin_ns; /* of that action */
};

/** Sampler thread. False: it could not be read. */
bool owner_find(struct copy *copy, uintptr_t interpreter, uintptr_t context, struct owner *out);

#endif
