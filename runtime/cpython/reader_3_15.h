/* CPython 3.15: see layout.h. As 3.14, but every stack ends at a mark inside the thread state, which tells a
 * whole walk from one that ran off. */
#ifndef RUNTIME_CPYTHON_READER_3_15_H
#define RUNTIME_CPYTHON_READER_3_15_H

#include "runtime/cpython/reader_3_14.h"

/* An iterator has an index, or nothing, above it on the stack. */
#define AWAITED_BELOW_TOP 1

#define BASE_FRAME offsetof(_PyThreadStateImpl, base_frame)

#endif
