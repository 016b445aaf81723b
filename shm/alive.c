/* A robust mutex that is held for life: see alive.h. */
#include "shm/alive.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stddef.h>

#include "shm/testpoint.h"

_Static_assert(sizeof(pthread_mutex_t) <= ALIVE_BYTES, "room for it");

static pthread_mutex_t *mutex_of(struct alive *alive)
{
    return (pthread_mutex_t *)(void *)alive->mutex;
}

uint32_t alive_word_offset(void)
{
    return (uint32_t)(offsetof(struct alive, mutex) + offsetof(pthread_mutex_t, __data.__lock));
}

void alive_hold(struct alive *alive)
{
    pthread_mutexattr_t attributes;
    if (atomic_load_explicit(&alive->holder, memory_order_relaxed) != ALIVE_COMING)
        return;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    int error = pthread_mutex_init(mutex_of(alive), &attributes);
    if (error == 0)
        error = pthread_mutex_lock(mutex_of(alive));
    pthread_mutexattr_destroy(&attributes);
    TESTPOINT(
        "alive-taken"); /* The aggregator does not ask the mutex yet: it waits a minute for it at most. */
    atomic_store_explicit(&alive->holder, error == 0 ? ALIVE_HELD : ALIVE_NO_ONE, memory_order_release);
    TESTPOINT("alive-held"); /* The aggregator reads in the mutex whether this process is there. */
}

void alive_release(struct alive *alive)
{
    if (atomic_load_explicit(&alive->holder, memory_order_relaxed) == ALIVE_HELD)
        pthread_mutex_unlock(mutex_of(alive));
}

void alive_renounce(struct alive *alive)
{
    uint32_t coming = ALIVE_COMING;
    atomic_compare_exchange_strong(&alive->holder, &coming, ALIVE_NO_ONE);
}

bool alive_is_over(uint32_t holder, uint32_t word)
{
    return holder == ALIVE_HELD && (word & FUTEX_OWNER_DIED) != 0;
}
