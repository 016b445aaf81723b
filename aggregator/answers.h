/*
 * Answers: what the service says when it is asked, over the control socket and at its end.
 *
 * `context` is the service. These run in the control thread; what belongs to the drain thread is done there
 * by service_call, and a report is then made from published windows without holding the drain up.
 */
#ifndef AGGREGATOR_ANSWERS_H
#define AGGREGATOR_ANSWERS_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

struct service;

/** control.h's handlers. */
char *answers_answer(const json_t *request, void *context);
char *answers_guest(const json_t *request, uid_t uid, void *context);
bool answers_sync(void *context);
void answers_thread_begin(void *context);
void answers_thread_end(void *context);

/** Write the report object, with stacks, of the pool with the most actions; after a cut, on the drain thread.
 * 0 or -errno. */
int answers_final_report(struct service *service, const char *path);

#endif
