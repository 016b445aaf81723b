/*
 * Requests: what the applications of a pool ask for, read from the files in its requests/ folder.
 *
 * A file's name is the hash of its content, so a name that was read once need not be read again. Where
 * requests differ, the lowest caps and the coarser detail win. Unknown or unsafe files are told of once and
 * left alone; past REQUESTS_REFUSED_MOST they are not told of.
 */
#ifndef AGGREGATOR_REQUESTS_H
#define AGGREGATOR_REQUESTS_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "aggregator/budget.h"
#include "aggregator/config.h"

enum {
    REQUESTS_MOST = 256,         /* a pool */
    REQUESTS_REFUSED_MOST = 128, /* of these, so that rubbish leaves room for what is asked in earnest */
    REQUEST_BYTES_MOST = 256 << 10,
    REQUEST_NAME_MOST = 64,
};

enum request_kind {
    REQUEST_REFUSED,
    REQUEST_LIMITS,
    REQUEST_DESTINATION,
};

/** What applications ask for. */
struct asked {
    struct budget_asked limits;
    uint32_t action_types; /* told apart at most */
    bool process_scope;    /* also outside actions */
    bool by_nobody;        /* nobody has asked yet: these are the defaults */
};

struct request {
    char name[REQUEST_NAME_MOST];
    enum request_kind kind;
    struct asked asked; /* REQUEST_LIMITS */
    int destination;    /* REQUEST_DESTINATION: its id */
    unsigned form;      /* enum destination_form: what it takes */
    bool profiles;      /* it also takes merged profiles and status */
    bool there;         /* seen in the folder at this scan */
};

struct requests {
    struct request request[REQUESTS_MOST];
    unsigned count, destinations;
    bool differ; /* limits that differ were asked for */
    bool again;  /* one could not be read for want of descriptors or memory: look again */
};

/**
 * Look at `folder` again: read what is new, take back what has gone. Only files owned by `uid` count. Returns
 * true if anything changed. `source` names the pool in the log and to destinations.
 */
bool requests_scan(struct requests *requests, const char *folder, uid_t uid, const char *source,
                   const struct config *config);

/** How many files are told of as refused. */
unsigned requests_refused(const struct requests *requests);

/** What is asked for all in all, lowered by the configuration. */
struct asked requests_limits(const struct requests *requests, const struct config *config);

/** Read one request's text. `request->kind` tells what it is. 0, or -EINVAL with fault_text(). Exposed for
 * tests. */
int request_parse_limits(const json_t *json, struct request *request);

/**
 * The pool's last worker has gone: what was asked for is asked for no more. Workers that come write their
 * requests again, unless they find them; so a request is first set aside, and put back if `wanted(context)`
 * then finds that a worker has come. A destination stays until it has delivered all, unless `all`.
 */
void requests_drop(struct requests *requests, const char *folder, bool all, bool (*wanted)(void *context),
                   void *context);

/** What another life, or a worker, was killed at: a request that was set aside is put back. Before a scan. */
void requests_recover(const char *folder);

/** Take all destinations back. */
void requests_close(struct requests *requests);

#endif
