/* An action's samples summed up: see cluster.h. */
#include "aggregator/cluster.h"

#include <stdlib.h>
#include <string.h>

/* Room for each instruction, and a number that stands at none of them. */
static bool begin_walk(struct cluster *cluster, uint32_t instructions)
{
    if (++cluster->walk == 0 && cluster->lines != 0) {
        memset(cluster->line, 0, cluster->lines * sizeof *cluster->line);
        cluster->walk = 1;
    }
    if (instructions <= cluster->lines)
        return true;
    uint32_t room = cluster->lines == 0 ? 1024 : cluster->lines;
    while (room < instructions)
        room *= 2;
    struct cluster_line *line = realloc(cluster->line, room * sizeof *line);
    if (line == NULL)
        return false;
    memset(line + cluster->lines, 0, (room - cluster->lines) * sizeof *line);
    cluster->line = line;
    cluster->lines = room;
    return true;
}

void cluster_sum(struct cluster *cluster, const struct actions *actions, uint32_t first, uint64_t later_ns,
                 const struct stacks *stacks, uint32_t instructions)
{
    bool by_line = begin_walk(cluster, instructions);
    memset(cluster->all_ns, 0, sizeof cluster->all_ns);
    memset(cluster->state_ns, 0, sizeof cluster->state_ns);
    memset(cluster->squares, 0, sizeof cluster->squares);
    for (uint32_t s = first; s != ACTIONS_NONE; s = actions->sample[s].next) {
        const struct held_sample *sample = &actions->sample[s];
        const enum profile_part part = sample->time_ns >= later_ns ? PART_LATER : PART_FIRST;
        double ns = (double)sample->wall_ns;
        cluster->all_ns[part] += ns;
        cluster->state_ns[part][sample->state] += ns;
        cluster->squares[part][sample->state] += ns * ns / 1e18;
        if (!by_line)
            continue;
        struct cluster_line *line = &cluster->line[stacks_node(stacks, sample->stack).instruction];
        if (line->walk != cluster->walk)
            *line = (struct cluster_line){.walk = cluster->walk};
        line->ns[part] += (float)ns;
    }
}

void cluster_line_ns(const struct cluster *cluster, const struct stacks *stacks, uint32_t stack,
                     double line_ns[PROFILE_PARTS])
{
    uint32_t instruction = stacks_node(stacks, stack).instruction;
    bool known = instruction < cluster->lines && cluster->line[instruction].walk == cluster->walk;
    for (int part = 0; part < PROFILE_PARTS; part++)
        line_ns[part] = known ? (double)cluster->line[instruction].ns[part] : cluster->all_ns[part];
}

void cluster_close(struct cluster *cluster)
{
    free(cluster->line);
    memset(cluster, 0, sizeof *cluster);
}
