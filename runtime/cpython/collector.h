/* Whether the interpreter's garbage collector is at work. */
#ifndef RUNTIME_CPYTHON_COLLECTOR_H
#define RUNTIME_CPYTHON_COLLECTOR_H

#include <stdbool.h>

/**
 * True while a collection may have been started by an allocation anywhere, also in the middle of a change to
 * the current context: up to CPython 3.11. PyContextVar_Set holds no reference to the variables that it makes
 * new ones of, so whoever sets a variable in a finalizer then frees them under its feet. From 3.12 on
 * collections start between two instructions. To be called with the GIL held.
 */
bool collector_may_interrupt(void);

#endif
