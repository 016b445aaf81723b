/* The table of slots: see slots.h. */
#include "runtime/slots.h"

#include <pthread.h>
#include <string.h>

#include "runtime/cpython/context.h"
#include "runtime/place.h"
#include "runtime/sampler.h"
#include "runtime/tick_path.h"
#include "shm/clock.h"

struct slots slots;

static uint64_t last_version, last_ticket; /* even; not reset by a fork */

/* The calling thread's own slot, if that is still its. */
static __thread struct slot_use own;

static pthread_key_t at_end; /* of threads that had a slot */
static bool has_at_end;

static uint64_t ticket_of(int i)
{
    return atomic_load_explicit(&slots.slot[i].ticket, memory_order_relaxed);
}

/* The version of the slot that `use` is a share in; 0 if it has been given or taken back. */
static uint64_t version_in_use(const struct slot_use *use)
{
    if (use->slot == NO_SLOT || use->ticket == 0 || ticket_of(use->slot) != use->ticket)
        return 0;
    return slot_version((uint32_t)use->slot);
}

static bool is_in_use(const struct slot_use *use)
{
    return version_in_use(use) != 0;
}

/* ---- reading and changing facts ------------------------------------------------------------------------ */

static void load_facts(int i, struct slot_facts *facts)
{
    uint64_t words[sizeof *facts / 8];
    for (size_t k = 0; k < sizeof *facts / 8; k++)
        words[k] = atomic_load_explicit(&slots.slot[i].facts[k], memory_order_relaxed);
    memcpy(facts, words, sizeof *facts);
}

/* Replace the facts of a slot that had `version`. False if the sampler took it back. */
static bool store_facts(int i, uint64_t version, const struct slot_facts *facts)
{
    uint64_t words[sizeof *facts / 8];
    if (!atomic_compare_exchange_strong_explicit(&slots.version[i], &version, version | 1,
                                                 memory_order_acquire, memory_order_relaxed))
        return false;
    atomic_thread_fence(memory_order_release); /* who reads the new facts sees that they were changing */
    memcpy(words, facts, sizeof *facts);
    for (size_t k = 0; k < sizeof *facts / 8; k++)
        atomic_store_explicit(&slots.slot[i].facts[k], words[k], memory_order_relaxed);
    atomic_store_explicit(&slots.version[i], last_version += 2, memory_order_release);
    return true;
}

TICK_PATH uint64_t slot_read(uint32_t i, struct slot_facts *facts)
{
    uint64_t version = atomic_load_explicit(&slots.version[i], memory_order_acquire);
    if (version == 0 || (version & 1) != 0)
        return 0;
    load_facts((int)i, facts);
    atomic_thread_fence(memory_order_acquire);
    return slot_version(i) == version ? version : 0;
}

/* ---- taking and giving back ---------------------------------------------------------------------------- */

static int find_free_slot(void)
{
    for (int i = 0; i < SLOTS; i++)
        if (slot_version((uint32_t)i) == 0)
            return i;
    return NO_SLOT;
}

/* After many threads at once: the sampler shall not go through all those slots for ever. */
static void lower_top(void)
{
    uint32_t top = atomic_load_explicit(&slots.top, memory_order_relaxed), used = top;
    while (used > 0 && slot_version(used - 1) == 0)
        used--;
    if (used != top)
        atomic_store_explicit(&slots.top, used, memory_order_relaxed);
}

static bool is_same_thread(const struct reader_thread *a, const struct reader_thread *b)
{
    return a->tid == b->tid && a->tstate == b->tstate && a->tstate_id == b->tstate_id;
}

/* A free slot becomes the calling thread's own, with one user. */
static bool take(const struct reader_thread *thread, uint64_t begin_ns, uint64_t due_ns)
{
    int i = find_free_slot();
    if (i == NO_SLOT)
        return false;
    struct slot_facts facts = {.thread = *thread, .begin_ns = begin_ns, .place = place_here()};
    slots.slot[i].users = 1;
    atomic_store_explicit(&slots.slot[i].ticket, ++last_ticket, memory_order_relaxed); /* as is due_ns: */
    atomic_store_explicit(&slots.due_ns[i], due_ns, memory_order_relaxed); /* published with the version */
    if ((uint32_t)i >= atomic_load_explicit(&slots.top, memory_order_relaxed))
        atomic_store_explicit(&slots.top, (uint32_t)i + 1, memory_order_relaxed);
    if (!store_facts(i, 0, &facts))
        return false;
    own = (struct slot_use){.slot = (int16_t)i, .ticket = last_ticket};
    if (has_at_end)
        pthread_setspecific(at_end, &own);
    return true;
}

/* The slot's thread is to be looked at from now on, if nobody has said so before. `armed` is raised first, so
 * that who gives the slot back finds it raised. */
static bool arm(uint32_t i, uint64_t due_ns, uint64_t as)
{
    atomic_fetch_add_explicit(&slots.armed, 1, memory_order_seq_cst);
    if (atomic_compare_exchange_strong(&slots.due_ns[i], &due_ns, as)) {
        atomic_fetch_sub(&slots.waiting, 1);
        return true;
    }
    atomic_fetch_sub(&slots.armed, 1);
    return false;
}

/* A slot is free: what it was counted as. */
static void discount(uint32_t i)
{
    bool sampled = atomic_exchange(&slots.due_ns[i], SLOT_SAMPLED) <= SLOT_LATE;
    atomic_fetch_sub(sampled ? &slots.armed : &slots.waiting, 1);
}

static void free_slot(int i)
{
    uint64_t version = slot_version((uint32_t)i);
    atomic_store_explicit(&slots.slot[i].ticket, 0, memory_order_relaxed);
    if (version != 0 && atomic_compare_exchange_strong_explicit(&slots.version[i], &version, 0,
                                                                memory_order_acq_rel, memory_order_relaxed))
        discount((uint32_t)i);
    lower_top();
}

/*
 * The calling thread's slot, with one more user; else a free one. A candidate that waits there has its thread
 * no longer to itself, and gives up: else the thread would be looked at for it when the other action has
 * ended.
 */
static bool join_or_take(const struct reader_thread *thread, uint64_t begin_ns)
{
    struct slot_facts facts;
    if (is_in_use(&own)) {
        load_facts(own.slot, &facts);
        if (atomic_load(&slots.due_ns[own.slot]) > SLOT_LATE) {
            free_slot(own.slot);
        } else if (is_same_thread(&facts.thread, thread)) {
            slots.slot[own.slot].users++;
            return true;
        }
    }
    if (!take(thread, begin_ns, SLOT_SAMPLED))
        return false;
    atomic_fetch_add_explicit(&slots.armed, 1, memory_order_seq_cst);
    sampler_wake(begin_ns);
    return true;
}

bool slot_wait(struct slot_use *use, int32_t tid, uint64_t due_ns)
{
    struct reader_thread thread;
    *use = SLOT_UNUSED;
    if (is_in_use(&own) || atomic_load(&slots.waiting) >= SLOTS_WAITING)
        return false;
    reader_note_thread(&thread);
    thread.tid = tid;
    /* It is not looked at before it is due, and what it did until then is not to be made good. */
    if (!take(&thread, due_ns, due_ns))
        return false;
    *use = own;
    use->keeps = true;
    atomic_fetch_add(&slots.waiting, 1);
    sampler_expect(due_ns);
    return true;
}

bool slot_was_late(const struct slot_use *use)
{
    uint64_t late = SLOT_LATE;
    return is_in_use(use) && atomic_compare_exchange_strong(&slots.due_ns[use->slot], &late, SLOT_SAMPLED);
}

void slots_admit_due(uint64_t now_ns, bool (*admit)(uint64_t now_ns))
{
    uint32_t top = atomic_load_explicit(&slots.top, memory_order_relaxed);
    for (uint32_t i = 0; i < top; i++) {
        uint64_t version = slot_version(i), due_ns = atomic_load(&slots.due_ns[i]);
        if (version == 0 || due_ns <= SLOT_LATE)
            continue;
        if (due_ns <= now_ns && admit(now_ns)) {
            arm(i, due_ns, SLOT_LATE); /* if it ended just now, a token is wasted */
            continue;
        }
        if (due_ns <= now_ns && atomic_compare_exchange_strong(&slots.due_ns[i], &due_ns, SLOT_REFUSED))
            due_ns = SLOT_REFUSED;
        if (due_ns == SLOT_REFUSED) /* if its facts just change, at the next look */
            slot_reclaim(i, version);
    }
}

uint64_t slots_next_due(void)
{
    uint64_t next_ns = UINT64_MAX;
    uint32_t top = atomic_load(&slots.waiting) != 0 ? atomic_load(&slots.top) : 0;
    for (uint32_t i = 0; i < top; i++) {
        uint64_t due_ns = slot_version(i) != 0 ? atomic_load(&slots.due_ns[i]) : SLOT_REFUSED;
        if (due_ns > SLOT_LATE && due_ns < next_ns)
            next_ns = due_ns;
    }
    return next_ns;
}

bool slot_enter(struct slot_use *use, int32_t tid, uint64_t begin_ns, const struct slot_use *outer)
{
    struct reader_thread thread;
    struct slot_facts facts;
    reader_note_thread(&thread);
    thread.tid = tid; /* after a bare clone() the reader remembers the parent's */
    if (outer != NULL && is_in_use(outer)) {
        load_facts(outer->slot, &facts);
        if (is_same_thread(&facts.thread, &thread)) {
            *use = (struct slot_use){.slot = outer->slot, .ticket = outer->ticket};
            return true;
        }
    }
    *use = SLOT_UNUSED;
    if (!join_or_take(&thread, begin_ns))
        return false;
    *use = own;
    use->keeps = true;
    return true;
}

bool slot_hint(uint64_t serial, bool takes_turns)
{
    const uint64_t version = version_in_use(&own);
    if (version == 0)
        return false;
    struct slot_facts facts;
    bool entered;
    load_facts(own.slot, &facts);
    facts.context = context_here(&entered);
    facts.serial = serial;
    facts.shared |= entered || takes_turns || slots.slot[own.slot].users > 1;
    if (entered)
        slots_carry();
    store_facts(own.slot, version, &facts);
    return true;
}

void slot_leave(struct slot_use *use, uint64_t serial, uint64_t outer)
{
    const struct slot_use left = *use;
    const uint64_t version = version_in_use(use);
    *use = SLOT_UNUSED;
    if (version == 0)
        return;
    if (left.keeps && --slots.slot[left.slot].users == 0) {
        free_slot(left.slot); /* also when an inner action was left open */
        return;
    }
    struct slot_facts facts;
    load_facts(left.slot, &facts);
    if (facts.serial != serial)
        return;
    facts.serial = outer;
    store_facts(left.slot, version, &facts);
}

/*
 * What the slot is counted as is read before its version is compared: that has changed if the slot has become
 * another's meanwhile. Of a slot that is to be taken back nobody else changes it: its thread has died, or it
 * is refused, and stays so until it is freed.
 */
void slot_reclaim(uint32_t i, uint64_t version)
{
    bool sampled = atomic_load(&slots.due_ns[i]) <= SLOT_LATE;
    if ((version & 1) == 0 && atomic_compare_exchange_strong_explicit(
                                  &slots.version[i], &version, 0, memory_order_acq_rel, memory_order_relaxed))
        atomic_fetch_sub_explicit(sampled ? &slots.armed : &slots.waiting, 1, memory_order_seq_cst);
}

/* ---- threads that end ---------------------------------------------------------------------------------- */

/* On the thread, without the GIL. Its actions may be ended by another thread just now, and the slot be taken
 * by a third one: so nothing is changed here but a mark that says whose slot it was. */
static void thread_ends(void *value)
{
    const struct slot_use *use = value;
    if (!is_in_use(use))
        return;
    _Atomic uint64_t *mark = &slots.slot[use->slot].ended;
    uint64_t newest = atomic_load(mark);
    while (newest < use->ticket && !atomic_compare_exchange_weak(mark, &newest, use->ticket)) {
    }
    atomic_store(&slots.ended, 1);
    sampler_wake(clock_monotonic_ns());
}

void slots_open(void)
{
    has_at_end = pthread_key_create(&at_end, thread_ends) == 0;
}

void slots_reclaim_ended(void)
{
    if (atomic_load_explicit(&slots.ended, memory_order_relaxed) == 0 ||
        atomic_exchange(&slots.ended, 0) == 0)
        return;
    uint32_t top = atomic_load(&slots.top);
    for (uint32_t i = 0; i < top; i++) {
        uint64_t version = atomic_load_explicit(&slots.version[i], memory_order_acquire);
        uint64_t ticket = ticket_of((int)i);
        if (version == 0 || ticket == 0 || atomic_load(&slots.slot[i].ended) != ticket)
            continue;
        if (version & 1)
            atomic_store(&slots.ended, 1); /* whoever ends an action of it is not done: at the next look */
        else
            slot_reclaim(i, version);
    }
}

void slots_after_fork(void)
{
    memset(&slots, 0, sizeof slots);
    own = SLOT_UNUSED;
}
