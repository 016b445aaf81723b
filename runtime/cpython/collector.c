/* The garbage collector: see collector.h. */
#include "runtime/cpython/collector.h"

#include "runtime/cpython/layout.h"

bool collector_may_interrupt(void)
{
#if PY_VERSION_HEX < 0x030c0000
    return PyInterpreterState_Get()->gc.collecting != 0;
#else
    return false;
#endif
}
