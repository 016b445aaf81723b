/* Closed windows behind one RCU pointer: see windows.h. */
#include "aggregator/windows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <urcu.h>

#include "shm/fault.h"

struct window *window_new(uint64_t now_ns, uint64_t now_real_ns)
{
    struct window *window = calloc(1, sizeof *window);
    if (window == NULL)
        return NULL;
    atomic_init(&window->references, 1);
    window->start_ns = window->end_ns = now_ns;
    window->start_real_ns = window->end_real_ns = now_real_ns;
    return window;
}

void window_put(struct window *window)
{
    if (window == NULL || atomic_fetch_sub_explicit(&window->references, 1, memory_order_acq_rel) != 1)
        return;
    profile_close(&window->profile);
    free(window->worker);
    free(window);
}

static void window_get(struct window *window)
{
    atomic_fetch_add_explicit(&window->references, 1, memory_order_relaxed);
}

void window_note_worker(struct window *window, uint64_t worker)
{
    uint32_t low = 0, high = window->workers;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (window->worker[middle] < worker)
            low = middle + 1;
        else
            high = middle;
    }
    if ((low < window->workers && window->worker[low] == worker) || window->workers >= WINDOW_WORKERS_MOST)
        return;
    if (window->workers == window->workers_room) {
        uint32_t room = window->workers_room == 0 ? 8 : window->workers_room * 2;
        uint64_t *grown = realloc(window->worker, room * sizeof *grown);
        if (grown == NULL)
            return; /* only a count of workers is lost */
        window->worker = grown;
        window->workers_room = room;
    }
    memmove(window->worker + low + 1, window->worker + low, (window->workers - low) * sizeof *window->worker);
    window->worker[low] = worker;
    window->workers++;
    window->workers_touched = true;
}

static void add_sums(struct window_sums *into, const struct window_sums *from)
{
    _Static_assert(sizeof(struct window_sums) % sizeof(uint64_t) == 0, "only 64-bit totals");
    uint64_t *to = (uint64_t *)(void *)into;
    const uint64_t *add = (const uint64_t *)(const void *)from;
    for (size_t i = 0; i < sizeof *into / sizeof *to; i++)
        to[i] += add[i];
}

int window_merge(struct window *into, const struct window *from)
{
    if (from->start_ns < into->start_ns) {
        into->start_ns = from->start_ns;
        into->start_real_ns = from->start_real_ns;
    }
    if (from->end_ns > into->end_ns) {
        into->end_ns = from->end_ns;
        into->end_real_ns = from->end_real_ns;
    }
    add_sums(&into->sums, &from->sums);
    for (uint32_t i = 0; i < from->workers; i++)
        window_note_worker(into, from->worker[i]);
    return profile_merge(&into->profile, &from->profile);
}

struct window *window_copy(const struct window *window)
{
    struct window *copy = window_new(window->start_ns, window->start_real_ns);
    if (copy != NULL && window_merge(copy, window) != 0) {
        window_put(copy);
        copy = NULL;
    }
    return copy;
}

void window_commit(struct window *window)
{
    window->workers_touched = false;
    profile_commit(&window->profile);
}

bool window_idle(const struct window *window)
{
    const struct window_sums *sums = &window->sums;
    return profile_empty(&window->profile) && sums->samples == 0 && sums->hooks == 0 && sums->admitted == 0 &&
           sums->dropped == 0 && sums->uncounted == 0 && sums->quarantined == 0;
}

static uint64_t span_ns(const struct window *window)
{
    return window->end_ns - window->start_ns;
}

/* Merge the two neighbours of the older half that together are shortest. */
static int merge_two(struct windows *windows, void (*dropped)(uint64_t id, void *), void *context)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i + 1 < windows->count / 2; i++)
        if (span_ns(windows->closed[i]) + span_ns(windows->closed[i + 1]) <
            span_ns(windows->closed[best]) + span_ns(windows->closed[best + 1]))
            best = i;
    struct window *first = windows->closed[best], *second = windows->closed[best + 1];
    struct window *sum = window_copy(first);
    if (sum == NULL || window_merge(sum, second) != 0) {
        window_put(sum);
        return fault(ENOMEM, "merging windows");
    }
    dropped(first->id, context);
    dropped(second->id, context);
    window_put(first);
    window_put(second);
    windows->closed[best] = sum;
    memmove(&windows->closed[best + 1], &windows->closed[best + 2],
            (windows->count - best - 2) * sizeof *windows->closed);
    windows->count--;
    return 0;
}

static uint64_t cells_of(const struct windows *windows)
{
    uint64_t cells = 0;
    for (uint32_t i = 0; i < windows->count; i++)
        cells += windows->closed[i]->profile.cells;
    return cells;
}

int windows_close_one(struct windows *windows, struct window *window, void (*dropped)(uint64_t id, void *),
                      void *context)
{
    while (windows->count >= WINDOWS_MOST ||
           (windows->count > WINDOWS_FEWEST && cells_of(windows) > WINDOWS_CELLS_MOST)) {
        int rc = merge_two(windows, dropped, context);
        if (rc != 0)
            return rc;
    }
    profile_rescale(&window->profile);
    windows->closed[windows->count++] = window;
    return 0;
}

void windows_release(struct window_list *list)
{
    if (list == NULL || atomic_fetch_sub_explicit(&list->references, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < list->count; i++)
        window_put(list->window[i]);
    free(list);
}

int windows_publish(struct windows *windows, const struct window *open)
{
    struct window_list *list = calloc(1, sizeof *list);
    if (list == NULL)
        return fault(ENOMEM, "publishing windows");
    atomic_init(&list->references, 1);
    for (uint32_t i = 0; i < windows->count; i++) {
        window_get(windows->closed[i]);
        list->window[list->count++] = windows->closed[i];
    }
    if (open != NULL) {
        struct window *copy = window_copy(open);
        if (copy == NULL) {
            windows_release(list);
            return fault(ENOMEM, "publishing windows");
        }
        profile_rescale(&copy->profile);
        list->window[list->count++] = copy;
    }
    /* An atomic of the language instead of rcu_xchg_pointer, so that ThreadSanitizer sees what it orders. */
    struct window_list *old = atomic_exchange_explicit(&windows->published, list, memory_order_acq_rel);
    if (old != NULL) {
        /* Past this, whoever saw the old list holds a reference of its own to it. */
        synchronize_rcu();
        windows_release(old);
    }
    return 0;
}

struct window_list *windows_acquire(struct windows *windows)
{
    rcu_read_lock();
    struct window_list *list = atomic_load_explicit(&windows->published, memory_order_acquire);
    if (list != NULL)
        atomic_fetch_add_explicit(&list->references, 1, memory_order_relaxed);
    rcu_read_unlock();
    return list;
}

void windows_free(struct windows *windows)
{
    windows_release(windows->published);
    for (uint32_t i = 0; i < windows->count; i++)
        window_put(windows->closed[i]);
    memset(windows, 0, sizeof *windows);
}
