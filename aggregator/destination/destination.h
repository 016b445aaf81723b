/*
 * Destinations: where finished messages go, a file or a REST server, carried out once for the whole pool.
 *
 * One delivery thread serves them all. What was put is copied into a bounded queue of its destination, so a
 * full disk or a slow or dead server never blocks the caller: past the bound the oldest lines are dropped and
 * counted. What can be tried again (no space, no connection, 408, 429, 5xx) is tried again with growing
 * pauses; what can never succeed (another 4xx, a redirect) is given up and counted. While a server is away
 * its lines wait on disk (spool.h), where they outlive this process.
 *
 * All functions may be called from any thread. None is to be called in the child of a fork.
 */
#ifndef AGGREGATOR_DESTINATION_H
#define AGGREGATOR_DESTINATION_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum destination_kind {
    DESTINATION_FILE,
    DESTINATION_REST,
};

enum destination_form {
    DESTINATION_CLASSIC,
    DESTINATION_ELIOT,
    DESTINATION_FORMS,
};

enum destination_gzip {
    GZIP_AUTO, /* once the server has said that it takes it (Accept-Encoding in an answer, RFC 9110) */
    GZIP_ALWAYS,
    GZIP_NEVER,
};

/** What a request asks for. Strings are copied by destination_add(); NULL where nothing was given. */
struct destination_spec {
    enum destination_kind kind;
    enum destination_form form;
    bool profiles; /* also wants merged profiles and status; kept for the caller, not acted upon here */
    const char
        *pool; /* whose it is, "<uid>-<source>": equal requests of two pools are two destinations; NULL: "" */
    /* a file */
    const char *path; /* absolute */
    bool flush;       /* write at once; else gathered for up to a second or 64 KiB */
    bool no_links;    /* refuse a path with a symbolic link in it (a request of another uid) */
    /* a REST server */
    const char *url; /* http:// or https:// */
    double timeout_s;
    const char *ca_pem; /* certificates to trust instead of the system's */
    bool verify;        /* check the server's certificate */
    bool check_hostname;
    bool newest_tls;                /* TLS 1.3 only, else 1.2 will do */
    const char *certfile, *keyfile; /* our own certificate */
    const char *token_file;         /* what stands in it goes into the Authorization header; read each time */
    enum destination_gzip gzip;
    uint64_t spool_bytes; /* how much may wait on disk; 0: nothing */
    double spool_age_s;   /* and for how long */
};

/** Get ready; the delivery thread starts with the first destination. 0 or -errno. */
int destinations_start(void);

/**
 * Add a destination; one with an equal spec that is there already is found, not added twice. Returns its id
 * (>= 0), or -errno with fault_text(): -EINVAL for a path that is not absolute or a URL of another scheme.
 * An unreachable file or server is no error here: it is tried again, see destination_status().
 */
int destination_add(const struct destination_spec *spec);

/** Take it back. What was put before is still delivered if that works at the first attempt. */
void destination_remove(int id);

/** Queue one JSON line, without its newline (there must be none in it). Never blocks; an unknown id is
 * ignored. */
void destination_put(int id, const char *line, size_t bytes);

/**
 * Wait until all that was put before has been written, posted or given up, or has failed at one fresh
 * attempt. Returns false if that took longer than `timeout_ms`.
 */
bool destination_sync(unsigned timeout_ms);

/**
 * Have everything that was put before outlive this process: written to its file, posted, or on disk. What
 * fails at one attempt is left as it is. Returns false if that took longer than `timeout_ms`.
 */
bool destinations_secure(unsigned timeout_ms);

/** Open all files afresh before the next write to them (after a log rotation). */
void destinations_reopen(void);

/** Has all that was put been delivered or given up? True for an unknown id. */
bool destination_idle(int id);

/** A new object {kind, target, delivered, failed, dropped, waiting, spooled, last_error}, in lines; what is
 * spooled waits as well. NULL for an unknown id. */
json_t *destination_status(int id);

/** destination_sync(), then end the thread and forget all destinations. */
void destinations_stop(unsigned timeout_ms);

#endif
