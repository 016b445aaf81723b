/*
 * Control socket: how the command, the web face and in-process destinations talk to the aggregator.
 *
 * A Unix stream socket. One request a line (a JSON object with "verb"), one reply a line, in order, any
 * number of requests a connection. Peers with the aggregator's own uid, or root, are served; others only
 * where `guest` is set and we are root: by it, and with subscriptions to their own process.
 *
 * `subscribe` and `sync` are handled here; every other verb goes to `answer`. One thread serves all
 * connections; a client that does not read delays nobody.
 */
#ifndef AGGREGATOR_CONTROL_H
#define AGGREGATOR_CONTROL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/** What the socket's thread calls. `context` is handed to each. */
struct control_handlers {
    /** Answer one request (an object with a string "verb"): malloc'ed JSON text without a newline, or NULL
     * (failed). */
    char *(*answer)(const json_t *request, void *context);
    /** The same for a peer of user `uid`, who must not be told of others; NULL: there are no guests. */
    char *(*guest)(const json_t *request, uid_t uid, void *context);
    /** Drain now, hand all messages on, wait (bounded) for the destinations; false if that took too long. */
    bool (*sync)(void *context);
    /** Called in the thread as it starts and as it ends (to register it with RCU); may be NULL. */
    void (*thread_begin)(void *context);
    void (*thread_end)(void *context);
    void *context;
};

/**
 * Listen at `socket_path` (0600, with guests 0666; a stale socket there is replaced) and start the thread,
 * all signals blocked. `handlers` is copied. 0, or -errno with fault_text().
 */
int control_start(const char *socket_path, const struct control_handlers *handlers);

/** Does anybody subscribe to the actions of process `pid`? Any thread; one load where nobody subscribes at
 * all. */
bool control_has_subscriber(int32_t pid);

/**
 * Send one JSON line (without a newline) to the subscribers of `pid`. Never blocks: past a bound the line is
 * dropped for that client, counted, and told to it by {"kind":"status","dropped":N} as soon as there is room.
 */
void control_publish(int32_t pid, const char *line, size_t bytes);

/** Send what can be sent at once, close all, end the thread, remove the socket. */
void control_stop(void);

#endif
