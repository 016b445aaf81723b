/* The table of slots: see slots.h. */
#include "runtime/slots.h"

#include <string.h>

#include "runtime/cpython/context.h"
#include "runtime/sampler.h"
#include "runtime/tick_path.h"

struct slots slots;

static uint64_t last_version, last_ticket; /* even; not reset by a fork */

/* The calling thread's own slot, if that is still its. */
static __thread struct slot_use own;

/* The version of the slot that `use` is a share in; 0 if it has been given or taken back. */
static uint64_t version_in_use(const struct slot_use *use)
{
    if (use->slot == NO_SLOT || use->ticket == 0 || slots.slot[use->slot].ticket != use->ticket)
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

/* The calling thread's slot, with one more user; else a free one. */
static bool join_or_take(const struct reader_thread *thread, uint64_t begin_ns)
{
    struct slot_facts facts;
    if (is_in_use(&own)) {
        load_facts(own.slot, &facts);
        if (is_same_thread(&facts.thread, thread)) {
            slots.slot[own.slot].users++;
            return true;
        }
    }
    int i = find_free_slot();
    if (i == NO_SLOT)
        return false;
    facts = (struct slot_facts){.thread = *thread, .begin_ns = begin_ns};
    slots.slot[i].users = 1;
    slots.slot[i].ticket = ++last_ticket;
    if ((uint32_t)i >= atomic_load_explicit(&slots.top, memory_order_relaxed))
        atomic_store_explicit(&slots.top, (uint32_t)i + 1, memory_order_relaxed);
    if (!store_facts(i, 0, &facts))
        return false;
    own = (struct slot_use){.slot = (int16_t)i, .ticket = last_ticket};
    atomic_fetch_add_explicit(&slots.armed, 1, memory_order_seq_cst);
    sampler_wake(begin_ns);
    return true;
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

void slot_hint(uint64_t serial, bool takes_turns)
{
    const uint64_t version = version_in_use(&own);
    if (version == 0) {
        if (serial != 0)
            atomic_store_explicit(&slots.carried, 1, memory_order_relaxed);
        return;
    }
    struct slot_facts facts;
    bool entered;
    load_facts(own.slot, &facts);
    facts.context = context_here(&entered);
    facts.serial = serial;
    facts.shared |= entered || takes_turns || slots.slot[own.slot].users > 1;
    if (entered)
        atomic_store_explicit(&slots.carried, 1, memory_order_relaxed);
    store_facts(own.slot, version, &facts);
}

static void free_slot(int i)
{
    uint64_t version = slot_version((uint32_t)i);
    slots.slot[i].ticket = 0;
    if (version != 0 && atomic_compare_exchange_strong_explicit(&slots.version[i], &version, 0,
                                                                memory_order_acq_rel, memory_order_relaxed))
        atomic_fetch_sub_explicit(&slots.armed, 1, memory_order_seq_cst);
    lower_top();
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

void slot_reclaim(uint32_t i, uint64_t version)
{
    if (atomic_compare_exchange_strong_explicit(&slots.version[i], &version, 0, memory_order_acq_rel,
                                                memory_order_relaxed))
        atomic_fetch_sub_explicit(&slots.armed, 1, memory_order_seq_cst);
}

void slots_after_fork(void)
{
    memset(&slots, 0, sizeof slots);
    own = SLOT_UNUSED;
}
