/*
 * Service: one runtime directory, its pools, and the loop that steps them.
 *
 * One thread does everything but delivery (destination.h) and conversation (control.h). Those and others may
 * have work done on it by service_call. It polls: while something moves a round comes every 20 to 500 ms, as
 * the lanes fill and as the budget allows; otherwise it mostly sleeps. A worker whose lane fills meanwhile
 * rings for it (shm/budget.h). That, and new pools, workers and requests, it is told of by inotify, with a
 * look round each second as a net.
 */
#ifndef AGGREGATOR_SERVICE_H
#define AGGREGATOR_SERVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "aggregator/pace.h"
#include "aggregator/pool.h"

#define SERVICE_VERSION "0.1.0"

enum {
    SERVICE_POOLS = 64,
    SERVICE_FIRST_WORKER_S = 60, /* how long a private service waits for its first worker, at least */
};

struct service_options {
    const char *directory;    /* made if need be */
    const char *config_path;  /* NULL: none */
    const char *final_report; /* NULL: none */
    double linger_s;
    bool private;
    bool once;
};

struct service {
    struct service_options options;
    struct config config;
    char directory[DIRECTORY_PATH_MAX];
    int lock, epoll, inotify, wake, signals;
    struct pool *pool[SERVICE_POOLS];
    _Atomic unsigned pools;           /* grows only; pool[0 … pools) may be read by any thread */
    uint32_t unserved[SERVICE_POOLS]; /* hashes of the paths of folders that could not be opened */
    unsigned unserved_count;
    uint64_t started_ns, attached_at_ns; /* when a worker was last attached */
    uint64_t cpu_ns;                     /* our own, as accounted */
    uint64_t scan_at_ns, cycle_at_ns;    /* when they are due */
    struct pace pace;
    uint64_t rings; /* how often a worker rang */
    bool rescan, reload, stop, talking;
    bool lost; /* the directory was taken away */
    /* a call from another thread */
    pthread_mutex_t lock_call;
    pthread_cond_t called;
    void (*call)(struct service *service, void *context);
    void *call_context;
    uint64_t calls_asked, calls_done;
    bool deaf; /* calls are not served any more */
};

/** Take the directory's lock and open what is there. 0; -EWOULDBLOCK if another service holds it; -errno. */
int service_open(struct service *service, const struct service_options *options);

/** Start control socket and delivery (not for `once`). 0 or -errno. */
int service_talk(struct service *service);

/** The loop, until SIGTERM, SIGINT, or (private) the last worker has gone. */
void service_run(struct service *service);

/** Drain all there is, write checkpoint and final report, deliver, and let go. Returns 0, or -errno if the
 * report could not be written. */
int service_close(struct service *service);

/**
 * Run `call` on the drain thread and wait for it. False if that took longer than 5 s. From other threads
 * only.
 */
bool service_call(struct service *service, void (*call)(struct service *, void *), void *context);

/** Drain now, so that everything up to now is merged, and publish it. On the drain thread. */
void service_cut(struct service *service);

#endif
