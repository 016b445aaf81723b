/*
 * Cluster: an action's samples summed up by state and by line of code, before they go into a profile, which
 * needs both to tell how sure its figures are (spread.h).
 */
#ifndef AGGREGATOR_CLUSTER_H
#define AGGREGATOR_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>

#include "aggregator/actions.h"
#include "aggregator/profile.h"
#include "aggregator/stacks.h"

struct cluster_line {
    float ns[PROFILE_PARTS];
    uint32_t walk; /* the action that it is of */
};

struct cluster {
    double all_ns[PROFILE_PARTS], state_ns[PROFILE_PARTS][SAMPLE_STATES];
    double squares[PROFILE_PARTS][SAMPLE_STATES]; /* of each sample's wall time, in s² */
    /* by instruction; what an earlier action left there has another number */
    struct cluster_line *line;
    uint32_t lines, walk;
};

/**
 * Sum up the samples that start at `first`; those from `later_ns` on are the later part. `instructions`
 * bounds the leaves of `stacks`.
 */
void cluster_sum(struct cluster *cluster, const struct actions *actions, uint32_t first, uint64_t later_ns,
                 const struct stacks *stacks, uint32_t instructions);

/** The time of all those samples whose leaf is that of `stack`; of all of them where memory was short. */
void cluster_line_ns(const struct cluster *cluster, const struct stacks *stacks, uint32_t stack,
                     double line_ns[PROFILE_PARTS]);

void cluster_close(struct cluster *cluster);

#endif
