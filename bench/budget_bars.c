/*
 * The budget's bars in C, as a module `_budget_bars` in the same library as the runtime itself, so that what
 * is measured is the real thing. bench/budget/bars.py loads it in the place of profilomatic._runtime.
 *
 * Each function returns seconds of this thread's CPU for one repetition.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/action.h"
#include "runtime/limits.h"
#include "runtime/sampler.h"
#include "runtime/types.h"
#include "runtime/worker.h"
#include "shm/clock.h"

static const char name[] = "bar";

static uint64_t thread_ns(void)
{
    return clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
}

static PyObject *seconds_each(uint64_t ns, long n)
{
    return PyFloat_FromDouble((double)ns / 1e9 / (double)n);
}

/* An action's begin and end, with the meter as the hooks use it. */
static void pair(void)
{
    struct action action = {.use = SLOT_UNUSED, .wait = NO_WAIT};
    struct meter_mark mark = meter_enter(&worker.meter);
    action_begin(&action, name, sizeof name - 1, true, NULL, NULL);
    meter_leave(&worker.meter, mark);
    mark = meter_enter(&worker.meter);
    action_end(&action, name, sizeof name - 1, false, NULL);
    meter_leave(&worker.meter, mark);
}

static PyObject *pairs(PyObject *module, PyObject *value)
{
    (void)module;
    long n = PyLong_AsLong(value);
    uint64_t start = thread_ns();
    for (long i = 0; i < n; i++)
        pair();
    return seconds_each(thread_ns() - start, n);
}

/* The decision alone: lottery and token. */
static PyObject *admissions(PyObject *module, PyObject *value)
{
    (void)module;
    long n = PyLong_AsLong(value), admitted = 0;
    struct limits_draw draw;
    uint64_t now = clock_monotonic_ns(), start = thread_ns();
    for (long i = 0; i < n; i++)
        admitted += limits_admit(0, now, 0, &draw) == DENIALS;
    uint64_t spent = thread_ns() - start;
    if (admitted != n)
        return PyErr_Format(PyExc_RuntimeError, "%ld of %ld were admitted", admitted, n);
    return seconds_each(spent, n);
}

/* Waking the sampler out of its park; it finds nothing to do and parks again. */
static PyObject *wakes(PyObject *module, PyObject *value)
{
    (void)module;
    long n = PyLong_AsLong(value);
    uint64_t spent = 0;
    for (long i = 0; i < n; i++) {
        usleep(1000);
        uint64_t start = thread_ns();
        sampler_wake(clock_monotonic_ns());
        spent += thread_ns() - start;
    }
    return seconds_each(spent, n);
}

static _Atomic uint32_t word, stop;

static void *sleeper(void *unused)
{
    (void)unused;
    while (atomic_load(&stop) == 0) {
        syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
        atomic_store(&word, 0);
    }
    return NULL;
}

/* The reference: a thread that waits on a futex and does nothing else, woken in the same way. */
static PyObject *bare_wakes(PyObject *module, PyObject *value)
{
    (void)module;
    long n = PyLong_AsLong(value);
    uint64_t spent = 0;
    pthread_t thread;
    atomic_store(&stop, 0);
    if (pthread_create(&thread, NULL, sleeper, NULL) != 0)
        return PyErr_NoMemory();
    for (long i = 0; i < n; i++) {
        usleep(1000);
        uint64_t start = thread_ns();
        atomic_store(&word, 1);
        syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
        spent += thread_ns() - start;
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < 100; i++) {
        atomic_store(&word, 1);
        syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
        usleep(100);
    }
    pthread_join(thread, NULL);
    return seconds_each(spent, n);
}

static PyMethodDef methods[] = {{"pairs", pairs, METH_O, NULL},
                                {"admissions", admissions, METH_O, NULL},
                                {"wakes", wakes, METH_O, NULL},
                                {"bare_wakes", bare_wakes, METH_O, NULL},
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_budget_bars", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__budget_bars(void);

PyMODINIT_FUNC PyInit__budget_bars(void)
{
    return PyModule_Create(&definition);
}
