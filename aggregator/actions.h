/*
 * Actions: the profiled actions that have begun and whose story is not complete yet, each with its samples.
 *
 * Whole actions are kept until they end, so that what slow ones did can be told from what typical ones did. A
 * nested action belongs to the family of its root; when it is closed its samples pass on to the nearest
 * enclosing action that is still open, as they count for that one too. It stays in the family, without
 * samples, until the root is closed, because the root's message tells of it.
 *
 * Bounded: ACTIONS_MOST actions, ACTIONS_SAMPLES_MOST samples. Everything is addressed by index.
 *
 * So that a checkpoint need only say what changed since the one before ("kept"): which actions of that time
 * are gone, in the order in which they went, and of those that are open now the touched ones, each with the
 * samples it got. An action's samples are one list, the kept ones first; when a nested action is closed its
 * kept samples go to the end of the heir's kept ones, as they do when the closing is repeated on what the
 * checkpoints say.
 */
#ifndef AGGREGATOR_ACTIONS_H
#define AGGREGATOR_ACTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "aggregator/messages.h"
#include "shm/record.h"

enum {
    ACTIONS_MOST = 16384,
    ACTIONS_SAMPLES_MOST = 131072, /* 6 MB; a thousand workers at 100 Hz between two rounds of the service */
    ACTIONS_NESTED_TOLD = 256,     /* closed nested actions that are kept for their root's message */
    ACTIONS_BUCKETS = 16384,
};
#define ACTIONS_NONE UINT32_MAX

struct held_sample {
    uint64_t time_ns, wall_ns, cpu_ns;
    uint64_t serial; /* of the innermost action */
    uint32_t stack;  /* a node of the pool's stacks */
    uint32_t state;
    uint32_t next;
    uint32_t pad;
};

struct action {
    struct record_begin begin;
    struct record_end end;        /* valid once `ended` */
    uint64_t ended_round;         /* the round in which its end was read */
    uint32_t worker;              /* number of its worker */
    uint32_t type;                /* a pool's type, as known so far */
    uint32_t parent;              /* ACTIONS_NONE: no enclosing action that we know of */
    uint32_t root;                /* itself for a root */
    uint32_t family, family_last; /* of a root: its nested actions, in order of their beginning */
    uint32_t sibling, elder;      /* next and previous in the family */
    uint32_t children;            /* members of the family whose parent it is */
    uint32_t told;                /* of a root: closed nested actions in the family */
    uint32_t older, newer;        /* of a root: neighbours in order of beginning */
    uint32_t bucket_next;
    uint32_t first_sample, last_sample, samples;
    uint32_t last_kept;       /* up to here its samples are kept; ACTIONS_NONE: none is */
    struct messages messages; /* of a root: what was logged in it and in its nested actions */
    uint64_t stamp;           /* no other action, now or later, has the same */
    bool used, ended, closed, folded;
    bool kept;    /* known to the last checkpoint */
    bool touched; /* noted as one of which more is to be told than was kept: samples, and if ... */
    bool changed; /* ... it is new, has ended or was folded, itself */
};

/** An action of the last checkpoint that is gone. */
struct action_gone {
    uint64_t serial;
    uint32_t worker, pad;
};

struct action_touched {
    uint64_t stamp;
    uint32_t index, pad;
};

struct actions {
    struct action *action;
    uint32_t actions_room, actions_high, actions_free; /* free ones are chained by `sibling` */
    uint32_t actions_used;
    struct held_sample *sample;
    uint32_t samples_room, samples_high, samples_free;
    uint32_t samples_used;
    size_t messages_bytes;   /* of all */
    uint32_t oldest, newest; /* roots */
    uint32_t unfolded;       /* all roots older than this one are folded; ACTIONS_NONE: all are */
    uint32_t ended;          /* how many have ended and are not closed */
    uint64_t stamps;         /* given out */
    struct action_gone *gone;
    uint32_t gone_count, gone_room;
    struct action_touched *touched;
    uint32_t touched_count, touched_room;
    bool untold; /* not all that changed could be noted: the next checkpoint must tell of everything */
    uint32_t bucket[ACTIONS_BUCKETS];
};

void actions_open(struct actions *actions);
void actions_close(struct actions *actions);

/** The action with this serial of this worker that is not closed, or ACTIONS_NONE. */
uint32_t actions_find(const struct actions *actions, uint32_t worker, uint64_t serial);

/** Add one. ACTIONS_NONE if the bound (or memory) is reached: the caller makes room first. */
uint32_t actions_begin(struct actions *actions, uint32_t worker, uint32_t type,
                       const struct record_begin *begin);

/** Hold a sample with an action. False if the bound (or memory) is reached. */
bool actions_hold(struct actions *actions, uint32_t index, const struct record_sample *sample,
                  uint32_t stack);

/** Hold a message with the root of an action. False if the bound (or memory) is reached. */
bool actions_hold_message(struct actions *actions, uint32_t index, const struct record_message *message,
                          const char *text);

/** The oldest root whose family is not folded, or ACTIONS_NONE. */
uint32_t actions_oldest_unfolded(struct actions *actions);

/** The nearest enclosing action that is still open, or ACTIONS_NONE. */
uint32_t actions_enclosing(const struct actions *actions, uint32_t index);

/** Note that an action has changed: that it ended, or that its samples are folded. */
void actions_touch(struct actions *actions, uint32_t index);

/** The action behind the i-th note of a touched one, or ACTIONS_NONE if it is gone. */
uint32_t actions_touched(const struct actions *actions, uint32_t i);

/** The first of an action's samples that are not kept, or ACTIONS_NONE. */
uint32_t actions_first_fresh(const struct actions *actions, uint32_t index);

/** All that is open is kept from now on; `whole`: although it may not have been noted as touched. */
void actions_commit(struct actions *actions, bool whole);

/** Drop the samples of an action. */
void actions_drop_samples(struct actions *actions, uint32_t index);

/**
 * Close an action that is no root: its samples pass to the nearest enclosing open action, or are dropped.
 */
void actions_close_nested(struct actions *actions, uint32_t index);

/**
 * Forget a root, its samples and its closed nested actions. Nested ones that are still open become roots of
 * their own (they began inside an action, so they make no message).
 */
void actions_forget_root(struct actions *actions, uint32_t index);

#endif
