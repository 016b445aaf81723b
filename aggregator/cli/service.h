/*
 * The private aggregator of one `run`: started before the command, started again if it dies, ended after it.
 *
 * The caller has SIGCHLD blocked and reaps: it hands what waitpid() says of `service->pid` to
 * service_ended().
 */
#ifndef AGGREGATOR_CLI_SERVICE_H
#define AGGREGATOR_CLI_SERVICE_H

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "aggregator/cli/places.h"
#include "shm/directory.h"

enum {
    SERVICE_STARTS_MAX = 3,      /* restarts ... */
    SERVICE_STARTS_SECONDS = 60, /* ... in so many seconds */
};

struct service {
    pid_t pid; /* 0: none runs */
    bool died; /* at least once; its last report may be missing */
    char program[PLACES_PATH_MAX];
    char directory[DIRECTORY_PATH_MAX];
    char report[DIRECTORY_PATH_MAX]; /* where it leaves its final report */
    uint64_t started_ns[SERVICE_STARTS_MAX];
    unsigned starts;
};

/** Find the program, start it in `directory`, and wait (≤ 1 s) until it listens. 0, or -errno with
 * fault_text(). */
int service_start(struct service *service, const char *directory);

/** It has ended although nobody told it to: say so and start it again, if that has not happened too often. */
void service_ended(struct service *service, int status);

/**
 * End it and, where `wanted`, get its final report (NULL, with the reason told, if there is none). A signal
 * of `interrupts` that arrives meanwhile makes an end of the waiting: the aggregator is killed, without a
 * report.
 */
json_t *service_stop(struct service *service, const sigset_t *interrupts, bool wanted);

#endif
