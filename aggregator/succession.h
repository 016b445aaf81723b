/*
 * Succession: a service takes a directory over from a private aggregator.
 *
 * While a service is away for more than a few seconds its workers start a private one in its place. That one
 * would keep the directory for as long as there are workers, and the service could not come back, so it asks
 * over the control socket, and a private one gives way: it drains, writes its checkpoint and ends. The lock
 * alone says who serves.
 */
#ifndef AGGREGATOR_SUCCESSION_H
#define AGGREGATOR_SUCCESSION_H

#include <stdbool.h>

#define SUCCESSION_VERB "give way"

/** Ask whoever serves `directory` to give way; at most a second. True: it is about to end. */
bool succession_ask(const char *directory);

#endif
