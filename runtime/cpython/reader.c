/* One stack of one thread, without the GIL: see reader.h. */
#include "runtime/cpython/reader.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/cpython/code_table.h"
#include "runtime/cpython/reader_start.h"
#include "runtime/cpython/walk.h"
#include "runtime/tick_path.h"
#include "shm/clock.h"

enum {
    RETRIES = 3,  /* after stacks that were not valid */
    GATHERS = 10, /* in all, with those that mended a prediction */
    INTERPRETERS_MOST = 256,
};

/* ---- the calling thread ------------------------------------------------------------------------------- */

/*
 * The native id is asked once a thread. A fork gives the thread that survives it a new one, and only a
 * handler of the C library's hears of every fork.
 */
static __thread int32_t own_tid;
static __thread unsigned own_tid_fork;
static unsigned forks;
static struct {
    uintptr_t tstate;
    int32_t tid;
} survivor; /* of the last fork, in the child */

static void after_fork(void)
{
    forks++;
    own_tid = (int32_t)syscall(SYS_gettid);
    own_tid_fork = forks;
    survivor.tid = own_tid;
    survivor.tstate = (uintptr_t)PyGILState_GetThisThreadState();
}

void reader_watch_forks(void)
{
    static bool done;
    if (!done)
        done = pthread_atfork(NULL, NULL, after_fork) == 0;
}

void reader_note_thread(struct reader_thread *out)
{
    if (own_tid == 0 || own_tid_fork != forks) {
        own_tid = (int32_t)syscall(SYS_gettid);
        own_tid_fork = forks;
    }
    const PyThreadState *tstate = PyThreadState_Get();
    *out = (struct reader_thread){
        .tstate = (uintptr_t)tstate,
        .tstate_id = tstate->id,
        .tstate_native_id = tstate->TSTATE_NATIVE_ID,
        .tid = own_tid,
        .interpreter = (uintptr_t)tstate->interp,
    };
}

/* ---- the GIL ------------------------------------------------------------------------------------------ */

static const struct _gil_runtime_state *gil; /* of the main interpreter, as long as the process */

bool reader_find_gil(void)
{
    const struct _gil_runtime_state *found = interpreter_gil(PyInterpreterState_Main());
    if (found == NULL || !gil_is_locked(found) || gil_holder(found) != (uintptr_t)PyThreadState_Get())
        return false;
    gil = found;
    return true;
}

bool reader_finalizing(void)
{
    return runtime_is_finalizing();
}

TICK_PATH bool reader_gil_has(uintptr_t word)
{
    return gil != NULL && word - (uintptr_t)gil < sizeof *gil;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

void (*reader_gathered)(struct copy *copy, const struct reader_thread *thread, struct reader_facts *facts);

TICK_PATH bool reader_any_died(const struct stack *stack, uint64_t since)
{
    if (codes_deaths() == since)
        return false;
    for (uint32_t i = 0; i < stack->count; i++) {
        if (codes_died_since(since, stack->frame[i].code->address))
            return true;
    }
    return false;
}

/* More than a gather of what is predicted takes with cold caches, but less than this thread waits for a core
 * that it had to give up in the middle. */
static uint64_t gather_most_ns(const struct reader_prediction *p)
{
    return 40000 + 200 * (uint64_t)p->frames + 8000 * (uint64_t)p->chunks;
}

static bool is_same_path(const struct stack *a, const struct stack *b)
{
    bool same = a->count == b->count;
    for (uint32_t i = 0; i < a->count && same; i++)
        same = a->frame[i].code == b->frame[i].code;
    return same;
}

/* A stack of which a caller has gone on meanwhile: kept in case that no better one is found. */
static void keep(struct stack *kept, const struct stack *stack)
{
    memcpy(kept, stack, offsetof(struct stack, frame) + stack->count * sizeof stack->frame[0]);
}

TICK_PATH bool reader_read(struct copy *copy, const struct reader_thread *thread,
                           struct reader_prediction *prediction, struct stack *out,
                           struct reader_facts *facts)
{
    struct snapshot snapshot;
    snapshot_empty(&snapshot);
    out->count = out->flags = out->retries = 0;
    uint64_t deaths = 0, deaths_kept = 0;
    uintptr_t gap = 0; /* of the snapshot before */
    struct stack kept; /* the first that was doubtful; large, and nearly never touched */
    bool any_kept = false;
    struct reader_facts facts_kept;
    for (int invalid = 0, gathers = 0, interrupted = 0, moved = 0; invalid <= RETRIES && gathers < GATHERS;
         gathers++) {
        out->retries = (uint32_t)gathers;
        deaths = codes_begin();
        bool locked = gil != NULL && gil_is_locked(gil);
        *facts = (struct reader_facts){
            .holds_gil = locked && gil_holder(gil) == thread->tstate,
            .gil_is_held = locked,
        };
        const uint64_t begun = clock_read_ns(CLOCK_MONOTONIC);
        enum outcome outcome = snapshot_take(&snapshot, copy, thread, prediction);
        if (outcome == GONE)
            return false;
        if (outcome == AGAIN)
            continue;
        /* Then the thread has gone on meanwhile as far as it liked, and the pieces are of several moments. To
         * take others is fair: the kernel did not ask what the thread was doing. */
        if (interrupted < RETRIES && clock_read_ns(CLOCK_MONOTONIC) - begun > gather_most_ns(prediction)) {
            interrupted++;
            continue;
        }
        /* It went from one task to another, and what was read may be of both. The moments right before a
         * change are lost so, on its either side alike. */
        if (snapshot.context_moved && moved < RETRIES) {
            moved++;
            continue;
        }
        facts->in_context = !snapshot.context_moved;
        facts->context = snapshot.context;
        if (reader_gathered != NULL)
            reader_gathered(copy, thread, facts);
        if (snapshot.leaf == 0)
            return false;
        uintptr_t missing;
        out->flags = 0;
        enum walked walked = walk_stack(&snapshot, copy, out, &missing);
        if (walked == WALK_MISSING) {
            outcome = snapshot_learn(&snapshot, copy, missing);
            if (outcome == GONE)
                return false;
            if (outcome == AGAIN)
                continue;
            if (outcome == BEYOND && out->count != 0) {
                out->flags |= STACK_TRUNCATED;
                walked = WALK_VALID;
            }
        }
        bool confirmed = snapshot.gap == 0 || snapshot.gap == gap;
        gap = snapshot.gap;
        if (walked != WALK_VALID || !walk_met_mark(&snapshot)) {
            if (MARK_IS_AN_END && walk_from_root(&snapshot, copy, out))
                walked = WALK_VALID, confirmed = true;
            else if (walked == WALK_VALID)
                walk_stack(&snapshot, copy, out, &missing); /* of a later moment, which is better than none */
        }
        if (walked == WALK_VALID && confirmed && !reader_any_died(out, deaths)) {
            snapshot_settle(&snapshot);
            if (DOUBT_IS_OF_LINES && any_kept && !is_same_path(&kept, out))
                break;
            if (!snapshot.doubtful)
                return out->count != 0;
            if (!any_kept && out->count != 0) {
                any_kept = true;
                keep(&kept, out);
                deaths_kept = deaths;
                facts_kept = *facts;
            }
        }
        if (walked != WALK_VALID)
            snapshot_doubt(&snapshot);
        invalid++;
    }
    if (any_kept && !reader_any_died(&kept, deaths_kept)) {
        kept.retries = out->retries;
        keep(out, &kept);
        *facts = facts_kept;
        return true;
    }
    out->count = 0;
    if (snapshot.whole) {
        out->flags = 0;
        if (!walk_from_root(&snapshot, copy, out))
            out->flags = STACK_TORN;
        if (reader_any_died(out, deaths))
            out->count = 0;
    }
    snapshot_forget(prediction);
    return out->count != 0;
}

/* ---- all threads -------------------------------------------------------------------------------------- */

#if HEAP_FRAMES
/*
 * 3.10 does not note native ids, but the C library does, in the structure that a pthread_t points to. Where
 * in it is found by looking for the id of a thread that is not the process's first.
 */
enum {
    PTHREAD_BYTES = 2048,
};
static size_t native_id_at; /* 0: not known */

void reader_find_native_id(struct copy *copy)
{
    const int32_t tid = (int32_t)syscall(SYS_gettid);
    for (size_t at = sizeof tid; at < PTHREAD_BYTES && native_id_at == 0; at += sizeof tid) {
        int32_t word;
        if (!copy_piece(copy, (uintptr_t)pthread_self() + at, &word, sizeof word))
            return;
        if (word == tid)
            native_id_at = at;
    }
}

static int32_t native_id(struct copy *copy, const PyThreadState *tstate)
{
    int32_t tid;
    return native_id_at != 0 && copy_piece(copy, tstate->thread_id + native_id_at, &tid, sizeof tid) ? tid
                                                                                                     : 0;
}
#else
void reader_find_native_id(struct copy *copy)
{
    (void)copy;
}

static int32_t native_id(struct copy *copy, const PyThreadState *tstate)
{
    (void)copy;
    return (int32_t)tstate->native_thread_id;
}
#endif

static uintptr_t word(struct copy *copy, uintptr_t address)
{
    uintptr_t value;
    return address != 0 && address % sizeof value == 0 && copy_piece(copy, address, &value, sizeof value)
               ? value
               : 0;
}

int reader_list_threads(struct copy *copy, struct reader_thread *out, int most)
{
    int count = 0;
    uintptr_t interpreter = word(copy, (uintptr_t)&_PyRuntime.interpreters.head);
    for (int i = 0; interpreter != 0 && i < INTERPRETERS_MOST; i++) {
        uintptr_t field = interpreter_gil_field(interpreter);
        if (field == 0 || word(copy, field) == (uintptr_t)gil) {
            uintptr_t tstate = word(copy, interpreter + INTERPRETER_THREADS);
            for (int steps = 0; tstate != 0 && count < most && steps < most; steps++) {
                PyThreadState head;
                if (!copy_piece(copy, tstate, &head, TSTATE_END) || (uintptr_t)head.interp != interpreter)
                    break;
                int32_t tid = native_id(copy, &head);
                if (tstate == survivor.tstate)
                    tid = survivor.tid;
                if (tid != 0)
                    out[count++] =
                        (struct reader_thread){tstate, head.id, head.TSTATE_NATIVE_ID, tid, interpreter};
                tstate = (uintptr_t)head.next;
            }
        }
        interpreter = word(copy, interpreter + offsetof(PyInterpreterState, next));
    }
    return count;
}
