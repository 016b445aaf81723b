/*
 * Pool: all workers of one uid with one source name, what was merged of them, and the limits they get.
 *
 * The drain thread owns a pool; other threads see only its published windows and its append-only names and
 * stacks (windows.h, names.h, stacks.h). The service steps it: rounds (drain), cycles of a second (budget,
 * admission, heartbeat, windows), checkpoints.
 */
#ifndef AGGREGATOR_POOL_H
#define AGGREGATOR_POOL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "aggregator/admission.h"
#include "aggregator/budget.h"
#include "aggregator/config.h"
#include "aggregator/history.h"
#include "aggregator/merge.h"
#include "aggregator/pages.h"
#include "aggregator/requests.h"
#include "aggregator/store.h"
#include "aggregator/windows.h"
#include "aggregator/workers.h"
#include "shm/directory.h"

enum {
    POOL_REFUSED_MOST = 64,  /* files in rings/ that are no segments of ours and are not looked at again */
    POOL_FINAL_ROUNDS = 2,   /* rounds after a worker's end before what is open is given up */
    POOL_PATIENCE_S = 600,   /* for destinations to deliver what is left of a pool without workers */
    POOL_DROPPED_MOST = 256, /* window files that wait for a checkpoint to be removed */
    POOL_RECENT = 2048,      /* workers that are found by their number at once */
    POOL_NAMED = 1024,       /* chains, a power of two */
};
#define POOL_CYCLE_NS NS_PER_SECOND
#define POOL_WINDOW_NS (10 * NS_PER_SECOND)
#define POOL_IDLE_WINDOW_NS (60 * NS_PER_SECOND)

/** A worker as the checkpoint knows it, until its segment is found again. */
struct known_worker {
    struct known_worker *next;
    uint8_t uuid[16];
    uint32_t number;
    bool quarantined;
    uint64_t position[SEGMENT_LANES];
    uint64_t cpu_ns;
    struct taken taken;
};

struct pool {
    char path[DIRECTORY_PATH_MAX], rings[DIRECTORY_PATH_MAX], folder[DIRECTORY_PATH_MAX]; /* requests/ */
    char source[DIRECTORY_SOURCE_MAX + 1];
    uid_t uid;
    const struct config *config;
    struct pages pages;
    ino_t folder_inode; /* the folder that we opened: another one of its name is a new one */

    struct merge merge;
    struct windows windows;
    struct worker *workers;
    struct worker *recent[POOL_RECENT]; /* some of them, by their number modulo POOL_RECENT */
    struct worker *named[POOL_NAMED];   /* all of them, chained by a hash of their file's name */
    struct known_worker *known;
    struct known_worker **known_end,
        *known_last; /* while the checkpoint is read: its end, and who was looked for last */
    uint32_t next_number;
    unsigned attached; /* alive workers */
    uint64_t ever;     /* workers that were found */
    uint64_t quarantined;
    double fill; /* of the fullest lane at the last round */
    char refused[POOL_REFUSED_MOST][64];
    unsigned refused_count;
    bool rescan;    /* something could not be looked at for want of descriptors or memory */
    bool want_told; /* that was told of */

    struct requests requests;
    struct timespec rings_seen, folder_seen; /* times of last change when they were read */

    struct budget_asked asked;
    bool process_scope;
    struct budget_state budget_state;
    struct budget_limits limits;
    struct history history;
    uint64_t told_until_ns;  /* windows that begin later were not handed over yet; kept in the checkpoint */
    uint64_t decisions_told; /* how many of its decisions stand in messages of kind "status" */
    struct admission admission;
    struct admission_late late;
    struct rates published; /* what stands in the rates file */
    bool told;              /* it does stand there */
    bool pages_cut;         /* told once */
    uint64_t seen[STRATA];  /* root actions begun in this cycle */
    uint64_t cycle_at_ns, accounted_at_ns;
    uint64_t alone_since_ns;       /* 0: there are workers */
    uint64_t own_cpu_ns;           /* sampler and hook CPU of the open window that is accounted for */
    struct window_sums cycle_base; /* sums of the open window when the cycle began */

    /* the checkpoint */
    struct store_chain chain;
    bool whole;           /* the next one tells of everything and begins a new chain */
    uint64_t names_bytes; /* how long the committed part of the names log is */
    uint32_t types_kept, instructions_kept, stacks_kept; /* how much of the tables stands in it */
    uint64_t next_window;
    uint64_t dropped_window[POOL_DROPPED_MOST];
    unsigned dropped_windows;
    bool dirty; /* something changed since */
    uint64_t checkpoint_at_ns, checkpoint_cost_ns;
    uint64_t checkpoint_bytes; /* written by the last one */
    uint64_t whole_bytes;      /* of the chain's first piece */
    bool checkpoint_failed;    /* told once */
    bool removal_failed;       /* of a segment that has been committed; told once */
};

/**
 * Open the pool in folder `name` of `directory`: make or map its pages, load its checkpoint, find its
 * workers. 0, or -errno with fault_text().
 */
int pool_open(struct pool **out, const char *directory, const char *name, const struct config *config);

/** Let go of it; what is on disk stays. */
void pool_close(struct pool *pool);

/** Look for new segments and requests where a folder changed (`force`: in any case). */
void pool_scan(struct pool *pool, bool force);

/** The configuration changed: judge all requests again. */
void pool_reload(struct pool *pool);

/** No worker since `linger_s`: drop what the last ones asked for. Once a cycle. */
void pool_let_go(struct pool *pool, uint64_t now_ns, double linger_s);

/** Drain every worker once. Returns how much was merged. */
uint64_t pool_round(struct pool *pool);

/** Take account of CPU and attached time up to now; `aggregator_cpu_ns` is the pool's share of our own. */
void pool_account(struct pool *pool, uint64_t aggregator_cpu_ns, uint64_t now_ns);

/**
 * Within a cycle: may it have spent what it may (budget_would_brake), by what is known without pool_account?
 * `aggregator_cpu_ns` is the pool's share of our own CPU since then; `ahead_s` as in budget.h.
 */
bool pool_would_brake(const struct pool *pool, uint64_t aggregator_cpu_ns, double ahead_s, uint64_t now_ns);

/** Then, after pool_account: pause for the rest of the cycle if it has. */
void pool_brake(struct pool *pool, double ahead_s, uint64_t now_ns);

/** One cycle, after pool_account: decide and publish limits, close the window if its time is over. */
void pool_cycle(struct pool *pool, uint64_t now_ns);

/** Tell workers that the aggregator lives; restore pages that were cut. */
void pool_heartbeat(struct pool *pool, uint64_t now_ns);

/** Publish what there is up to now for readers. 0 or -ENOMEM. */
int pool_publish(struct pool *pool, uint64_t now_ns);

/** The worker with this number, or NULL. */
const struct worker *pool_worker(struct pool *pool, uint32_t number);

/** Tell workers how far their lanes were read: only what a committed checkpoint holds. */
void pool_store_heads(struct pool *pool);

/** After a committed checkpoint: store heads, remove what is finished. */
void pool_after_checkpoint(struct pool *pool);

/** Remove the pool's files and its folder; only with no worker alive. */
void pool_remove(struct pool *pool);

#endif
