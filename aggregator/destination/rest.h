/*
 * REST sink: posts batches of JSON lines to one URL through libcurl, one request at a time, over a connection
 * that is kept, compressed where the server takes that. The transfers of all sinks run in one multi handle of
 * the delivery thread.
 */
#ifndef AGGREGATOR_DESTINATION_REST_H
#define AGGREGATOR_DESTINATION_REST_H

#include <curl/curl.h>
#include <stddef.h>

#include "aggregator/destination/destination.h"

enum rest_outcome {
    REST_DELIVERED,
    REST_RETRY, /* no connection, time-out, 408, 409, 425, 429, 5xx; with a token 401 and 403: tried again */
    REST_REFUSED, /* it never will */
};

struct rest_sink;

/** Check a URL: http or https with a host. 0, or -EINVAL with fault_text(). */
int rest_check_url(const char *url);

/** Is what is posted there for nobody else to read: https, or this very machine? */
bool rest_is_private(const char *url);

/** The URL without a user name or password, for people; to be freed. NULL without memory. */
char *rest_shown_url(const char *url);

/** Make a sink for `spec`, which must outlive it. `owner` comes back from rest_sink_owner(). NULL: no memory.
 */
struct rest_sink *rest_sink_create(CURLM *multi, const struct destination_spec *spec, void *owner);

/** The owner of the sink whose transfer `easy` is. */
void *rest_sink_owner(CURL *easy);

/**
 * Start to post `length` bytes, which must stay where they are until the transfer has ended. `key` identifies
 * the batch, the same at each attempt, so that the receiver can drop repeats. 0, or -errno with fault_text().
 */
int rest_sink_post(struct rest_sink *sink, const char *bytes, size_t length, const char *key);

/**
 * The transfer has ended with `result`: say what that means, in words too where it failed; *retry_after_s is
 * the wait the server asked for, 0 if none; *chokes whether the batch itself may be the cause (500 and the
 * like).
 */
enum rest_outcome rest_sink_finish(struct rest_sink *sink, CURLcode result, char *error, size_t error_bytes,
                                   double *retry_after_s, bool *chokes);

/** Give up a transfer that runs; close the connection. */
void rest_sink_destroy(struct rest_sink *sink);

#endif
