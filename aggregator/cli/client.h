/*
 * Client of the aggregator's control socket: one request, one reply.
 */
#ifndef AGGREGATOR_CLI_CLIENT_H
#define AGGREGATOR_CLI_CLIENT_H

#include <jansson.h>

/**
 * Ask the aggregator that serves `directory` (NULL: the default one; if none does and nobody named a
 * directory, that of the one `profilomatic run` under way, which is told) and set *reply to its answer, an
 * object that the caller owns. Returns 0, or -errno with fault_text(): no aggregator there, no answer within
 * 30 s, or an answer {"error": …}, whose words are then the text.
 */
int client_ask(const char *directory, const json_t *request, json_t **reply);

#endif
