/*
 * Config: what the operator of this machine allows. It may only lower what applications ask for.
 *
 *   # /etc/profilomatic.toml, say
 *   max_overhead = 0.01            # or "1%"
 *   max_actions_per_run = 5
 *   max_action_types = 200         # told apart; the rest are "(other)"
 *   allow_paths = ["/var/log/profilomatic"]    # where requests of other uids may write
 *   allow_hosts = ["collector.example"]        # servers that requests of other uids may name
 */
#ifndef AGGREGATOR_CONFIG_H
#define AGGREGATOR_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

enum {
    CONFIG_LIST_MOST = 16,
    CONFIG_TEXT_MOST = 256,
};

struct config {
    double max_overhead;          /* 0: not lowered */
    uint32_t max_actions_per_run; /* 0: not lowered */
    uint32_t max_action_types;    /* 0: not lowered */
    unsigned paths, hosts;
    char path[CONFIG_LIST_MOST][CONFIG_TEXT_MOST];
    char host[CONFIG_LIST_MOST][CONFIG_TEXT_MOST];
};

/** Read a file. 0; -errno or -EINVAL with fault_text() that names the line; `config` is then unchanged. */
int config_read(struct config *config, const char *path);

/** Does an absolute path without ".." lie under one of the allowed ones? */
bool config_allows_path(const struct config *config, const char *path);

/** Is the host of an http(s) URL among the allowed ones? */
bool config_allows_url(const struct config *config, const char *url);

#endif
