/* SIGBUS as a return value: see guard.h. */
#include "aggregator/guard.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>

#include "shm/fault.h"

static __thread sigjmp_buf return_here;
static __thread volatile sig_atomic_t armed;

static void on_bus_error(int signal_number)
{
    if (armed) {
        armed = 0;
        siglongjmp(return_here, 1);
    }
    /* Not ours: let it have its usual effect. */
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

int guard_install(void)
{
    /* SA_NODEFER, because the handler leaves by a jump that does not restore the mask. */
    struct sigaction action = {.sa_handler = on_bus_error, .sa_flags = SA_NODEFER};
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, NULL) == 0 ? 0 : fault(errno, "sigaction(SIGBUS)");
}

bool guard_run(void (*work)(void *context), void *context)
{
    if (sigsetjmp(return_here, 0) != 0)
        return false;
    armed = 1;
    work(context);
    armed = 0;
    return true;
}
