/*
 * Deaths: which code objects the interpreter has freed, told to the one sampler thread.
 *
 * The deallocator of the code type is wrapped once. That one static pointer covers every interpreter of the
 * process; PyCode_AddWatcher (3.12+) would have to be repeated in each of them and takes one of eight slots
 * there.
 *
 * Ordering contract
 *   - A death is noted before the object's memory is given back: the counter is bumped with a full barrier
 * first. So whoever has seen the memory's new contents, and then reads the counter with acquire, sees the
 * death.
 *   - A slot is valid for death n only while its number is n + 1, before and after its address is read. A
 * slot that is not valid yet (the noting thread is between its steps) or any more (lapped) reads as "cannot
 * tell".
 *   - Noting is wait-free and needs no lock, so that interpreters with a GIL of their own do no harm, and
 * neither does a fork at any instant.
 */
#include <errno.h>
#include <stdatomic.h>

#include "runtime/cpython/code.h"
#include "runtime/cpython/code_table.h"
#include "runtime/cpython/layout.h"
#include "runtime/tick_path.h"
#include "shm/fault.h"

enum {
    RING = 4096, /* deaths between two ticks that can be told one by one */
};

static struct {
    _Atomic uint64_t number;
    _Atomic uintptr_t address;
} ring[RING];
static _Atomic uint64_t deaths;
static destructor original;

static void code_dealloc(PyObject *object)
{
    uint64_t n = atomic_fetch_add(&deaths, 1);
    atomic_store_explicit(&ring[n % RING].number, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&ring[n % RING].address, (uintptr_t)object, memory_order_relaxed);
    atomic_store_explicit(&ring[n % RING].number, n + 1, memory_order_release);
    original(object);
}

int codes_watch(void)
{
    if (PyCode_Type.tp_dealloc == NULL)
        return fault(EPROTO, "the type of code objects has no deallocator");
    if (original == NULL) {
        original = PyCode_Type.tp_dealloc;
        PyCode_Type.tp_dealloc = code_dealloc;
    }
    return 0;
}

TICK_PATH uint64_t codes_deaths(void)
{
    atomic_thread_fence(memory_order_acquire); /* after whatever memory was copied before */
    return atomic_load_explicit(&deaths, memory_order_acquire);
}

bool deaths_get(uint64_t n, uintptr_t *address)
{
    if (atomic_load_explicit(&ring[n % RING].number, memory_order_acquire) != n + 1)
        return false;
    *address = atomic_load_explicit(&ring[n % RING].address, memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&ring[n % RING].number, memory_order_relaxed) == n + 1;
}

bool codes_died_since(uint64_t since, uintptr_t address)
{
    uint64_t now = codes_deaths();
    if (now - since > RING)
        return true;
    for (uint64_t n = since; n != now; n++) {
        uintptr_t dead;
        if (!deaths_get(n, &dead) || dead == address)
            return true;
    }
    return false;
}
