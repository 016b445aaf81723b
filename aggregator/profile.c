/* Totals and sampled time: see profile.h. */
#include "aggregator/profile.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "shm/fault.h"

void profile_close(struct profile *profile)
{
    for (uint32_t i = 0; i < profile->types; i++)
        histogram_close(&profile->type[i].histogram);
    free(profile->type);
    free(profile->type_index);
    free(profile->cell);
    free(profile->cells_touched);
    free(profile->slots);
    memset(profile, 0, sizeof *profile);
}

static size_t words_of(uint32_t bits)
{
    return ((size_t)bits + 63) / 64;
}

void profile_clear(struct profile *profile)
{
    for (uint32_t i = 0; i < profile->types; i++)
        histogram_close(&profile->type[i].histogram);
    if (profile->type_index != NULL)
        memset(profile->type_index, 0, profile->type_index_room * sizeof *profile->type_index);
    if (profile->slots != NULL)
        memset(profile->slots, 0, ((size_t)profile->slot_mask + 1) * sizeof *profile->slots);
    if (profile->cells_touched != NULL)
        memset(profile->cells_touched, 0, words_of(profile->cells_room) * sizeof *profile->cells_touched);
    profile->types = 0;
    profile->cells = 0;
    profile->folded = 0;
}

static bool index_type(struct profile *profile, uint32_t type)
{
    if (type < profile->type_index_room)
        return true;
    uint32_t room = profile->type_index_room == 0 ? 64 : profile->type_index_room;
    while (room <= type)
        room *= 2;
    uint32_t *index = realloc(profile->type_index, room * sizeof *index);
    if (index == NULL)
        return false;
    memset(index + profile->type_index_room, 0, (room - profile->type_index_room) * sizeof *index);
    profile->type_index = index;
    profile->type_index_room = room;
    return true;
}

struct type_totals *profile_type(struct profile *profile, uint32_t type)
{
    if (!index_type(profile, type))
        return NULL;
    uint32_t known = profile->type_index[type];
    if (known != 0) {
        profile->type[known - 1].touched = 1;
        return &profile->type[known - 1];
    }
    if (profile->types == profile->types_room) {
        uint32_t room = profile->types_room == 0 ? 16 : profile->types_room * 2;
        struct type_totals *totals = realloc(profile->type, room * sizeof *totals);
        if (totals == NULL)
            return NULL;
        profile->type = totals;
        profile->types_room = room;
    }
    struct type_totals *totals = &profile->type[profile->types++];
    memset(totals, 0, sizeof *totals);
    totals->type = type;
    totals->touched = 1;
    profile->type_index[type] = profile->types;
    return totals;
}

const struct type_totals *profile_find_type(const struct profile *profile, uint32_t type)
{
    uint32_t known = type < profile->type_index_room ? profile->type_index[type] : 0;
    return known != 0 ? &profile->type[known - 1] : NULL;
}

static uint32_t hash_of(uint32_t type, uint32_t stack)
{
    uint64_t h = ((uint64_t)type << 32 | stack) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(h >> 32);
}

static bool grow_cells(struct profile *profile)
{
    uint32_t room = profile->cells_room == 0 ? 128 : profile->cells_room * 2;
    struct cell *cell = realloc(profile->cell, room * sizeof *cell);
    if (cell == NULL)
        return false;
    profile->cell = cell;
    uint64_t *touched = realloc(profile->cells_touched, words_of(room) * sizeof *touched);
    if (touched == NULL)
        return false;
    profile->cells_touched = touched;
    memset(touched + words_of(profile->cells_room), 0,
           (words_of(room) - words_of(profile->cells_room)) * sizeof *touched);
    uint32_t slots = room * 2;
    uint32_t *fresh = calloc(slots, sizeof *fresh);
    if (fresh == NULL)
        return false;
    for (uint32_t i = 0; i < profile->cells; i++) {
        uint32_t at = hash_of(cell[i].type, cell[i].stack) & (slots - 1);
        while (fresh[at] != 0)
            at = (at + 1) & (slots - 1);
        fresh[at] = i + 1;
    }
    free(profile->slots);
    profile->slots = fresh;
    profile->slot_mask = slots - 1;
    profile->cells_room = room;
    return true;
}

static struct cell *cell_of(struct profile *profile, uint32_t type, uint32_t stack, uint32_t most)
{
    if (profile->cells == profile->cells_room && !grow_cells(profile))
        return NULL;
    uint32_t at = hash_of(type, stack) & profile->slot_mask;
    for (; profile->slots[at] != 0; at = (at + 1) & profile->slot_mask) {
        struct cell *cell = &profile->cell[profile->slots[at] - 1];
        if (cell->type == type && cell->stack == stack)
            return cell;
    }
    if (profile->cells >= most)
        return NULL;
    struct cell *cell = &profile->cell[profile->cells++];
    *cell = (struct cell){.type = type, .stack = stack};
    profile->slots[at] = profile->cells;
    return cell;
}

/* The cell to put something in: past the bound that of the type's empty stack, for which some room is kept.
 */
static struct cell *cell_or_rest(struct profile *profile, uint32_t type, uint32_t stack, uint32_t samples)
{
    struct cell *cell = cell_of(profile, type, stack, PROFILE_CELLS_MOST);
    if (cell == NULL) {
        profile->folded += samples;
        cell = cell_of(profile, type, 0, 2 * PROFILE_CELLS_MOST);
    }
    return cell;
}

/* `value` is a product of two values, of these parts of the action. */
static void product_add(struct product *product, const struct profile_action *action, enum profile_part one,
                        enum profile_part other, double value)
{
    double more = fmax(action->weight[one], action->weight[other]);
    double less = fmin(action->weight[one], action->weight[other]);
    product->shed += (float)(action->together * more * (less - 1) * value);
    product->kept += (float)(more * value);
}

/* The product of a value in one part with a value in both. */
static void product_add_both(struct product *product, const struct profile_action *action,
                             enum profile_part part, double value, const double other[PROFILE_PARTS])
{
    product_add(product, action, part, PART_FIRST, value * other[PART_FIRST]);
    if (other[PART_LATER] > 0)
        product_add(product, action, part, PART_LATER, value * other[PART_LATER]);
}

/* The same of a value that has both parts. */
static void product_add_all(struct product *product, const struct profile_action *action,
                            const double value[PROFILE_PARTS], const double other[PROFILE_PARTS])
{
    for (int part = 0; part < PROFILE_PARTS; part++)
        if (value[part] > 0)
            product_add_both(product, action, (enum profile_part)part, value[part], other);
}

static void spread_stack(struct stack_spread *spread, const struct profile_action *action,
                         const struct profile_sample *sample)
{
    double wall = sample->wall_ns / 1e9, all[PROFILE_PARTS], apart[PROFILE_PARTS];
    for (int part = 0; part < PROFILE_PARTS; part++) {
        all[part] = action->all_ns[part] / 1e9;
        apart[part] = (action->all_ns[part] - sample->line_ns[part]) / 1e9;
    }
    product_add_both(&spread->cross, action, sample->part, wall, all);
    product_add_both(&spread->apart, action, sample->part, wall, apart);
    spread->ticks += (float)(action->weight[sample->part] * wall * wall);
}

void profile_add_sample(struct profile *profile, uint32_t type, const struct profile_action *action,
                        const struct profile_sample *sample)
{
    struct cell *cell = cell_or_rest(profile, type, sample->stack, 1);
    if (cell == NULL)
        return;
    size_t index = (size_t)(cell - profile->cell);
    double weight = action->weight[sample->part], wall_ns = weight * sample->wall_ns;
    profile->cells_touched[index / 64] |= UINT64_C(1) << (index % 64);
    cell->samples++;
    cell->wall[sample->state] += wall_ns;
    cell->cpu += weight * sample->cpu_ns;
    if (action->class == CLASS_SLOW)
        cell->slow[sample->state] += (float)wall_ns;
    else if (action->class == CLASS_TYPICAL)
        cell->typical += (float)wall_ns;
    spread_stack(&cell->spread, action, sample);
}

void profile_add_states(struct type_totals *totals, const struct profile_action *action,
                        const double wall_ns[PROFILE_PARTS][SAMPLE_STATES],
                        const double squares[PROFILE_PARTS][SAMPLE_STATES])
{
    struct type_spread *spread = &totals->spread;
    double all[PROFILE_PARTS], drawn = 0;
    for (int part = 0; part < PROFILE_PARTS; part++) {
        all[part] = action->all_ns[part] / 1e9;
        drawn += action->weight[part] * all[part];
    }
    product_add_all(&spread->all, action, all, all);
    spread->cubes += (float)(drawn * drawn * drawn);
    for (int state = 0; state < SAMPLE_STATES; state++) {
        double wall[PROFILE_PARTS];
        for (int part = 0; part < PROFILE_PARTS; part++) {
            wall[part] = wall_ns[part][state] / 1e9;
            spread->ticks[state] += (float)(action->weight[part] * squares[part][state]);
        }
        product_add_all(&spread->own[state], action, wall, wall);
        product_add_all(&spread->cross[state], action, wall, all);
    }
    if (action->class == CLASS_SLOW)
        spread->slow += (float)(action->together * drawn * drawn);
    else if (action->class == CLASS_TYPICAL)
        spread->typical += (float)(action->together * drawn * drawn);
}

void profile_add_end(struct type_totals *totals, const struct profile_action *action, uint64_t latency_ns,
                     const uint64_t *run_delay_ns, const uint64_t *cpu_ns)
{
    struct type_spread *spread = &totals->spread;
    double weight = action->weight[PART_FIRST], latency = (double)latency_ns;
    totals->ended++;
    totals->weight += weight;
    totals->latency += weight * latency;
    totals->slow += action->class == CLASS_SLOW;
    totals->typical += action->class == CLASS_TYPICAL;
    if (run_delay_ns != NULL) {
        double delay = (double)*run_delay_ns;
        totals->run_delay += weight * delay;
        totals->run_latency += weight * latency;
        product_add(&spread->run_own, action, PART_FIRST, PART_FIRST, delay * delay / 1e18);
        product_add(&spread->run_cross, action, PART_FIRST, PART_FIRST, delay * latency / 1e18);
        product_add(&spread->run_latency, action, PART_FIRST, PART_FIRST, latency * latency / 1e18);
    }
    if (cpu_ns != NULL) {
        double cpu = (double)*cpu_ns;
        totals->cpu += weight * cpu;
        totals->cpu_latency += weight * latency;
        product_add(&spread->cpu_own, action, PART_FIRST, PART_FIRST, cpu * cpu / 1e18);
        product_add(&spread->cpu_cross, action, PART_FIRST, PART_FIRST, cpu * latency / 1e18);
        product_add(&spread->cpu_latency, action, PART_FIRST, PART_FIRST, latency * latency / 1e18);
    }
}

void profile_add_late(struct type_totals *totals, const struct profile_action *action)
{
    totals->late++;
    totals->slow += action->class == CLASS_SLOW;
    totals->typical += action->class == CLASS_TYPICAL;
}

struct cell *profile_cell(struct profile *profile, uint32_t type, uint32_t stack)
{
    return cell_of(profile, type, stack, stack == 0 ? 2 * PROFILE_CELLS_MOST : PROFILE_CELLS_MOST);
}

void profile_commit(struct profile *profile)
{
    for (uint32_t i = 0; i < profile->types; i++)
        profile->type[i].touched = 0;
    if (profile->cells_touched != NULL)
        memset(profile->cells_touched, 0, words_of(profile->cells) * sizeof *profile->cells_touched);
}

static double factor_of(const struct type_totals *totals)
{
    /* Ends and counts are read a moment apart: a count of 0 beside merged ends says nothing yet. */
    return totals->weight > 0 && totals->count > 0 ? (double)totals->count / totals->weight : 1.0;
}

/* Each action stands for `factor` times as many: 1 / p² grows by its square, 1 / p with it. */
static void scale_product(struct product *product, double factor)
{
    double both = (double)product->shed + (double)product->kept;
    product->kept = (float)(product->kept * factor);
    product->shed = (float)fmax(0, both * factor * factor - (double)product->kept);
}

static void scale_products(struct product *product, size_t bytes, double factor)
{
    for (size_t i = 0; i < bytes / sizeof *product; i++)
        scale_product(&product[i], factor);
}

static void scale_stack(struct stack_spread *spread, double factor)
{
    scale_product(&spread->cross, factor);
    scale_product(&spread->apart, factor);
    spread->ticks = (float)(spread->ticks * factor);
}

static void scale_type(struct type_spread *spread, double factor)
{
    /* Its products stand first, one after the other. */
    scale_products(&spread->all, offsetof(struct type_spread, ticks), factor);
    for (int state = 0; state < SAMPLE_STATES; state++)
        spread->ticks[state] = (float)(spread->ticks[state] * factor);
    spread->cubes = (float)(spread->cubes * factor * factor * factor);
    spread->slow = (float)(spread->slow * factor * factor);
    spread->typical = (float)(spread->typical * factor * factor);
}

/* Both kinds of spread are sums in floats and nothing else. */
static void add_sums(void *into, const void *from, size_t bytes)
{
    float *sum = into;
    const float *add = from;
    for (size_t i = 0; i < bytes / sizeof *sum; i++)
        sum[i] += add[i];
}

void profile_add_spread(struct stack_spread *into, const struct stack_spread *from)
{
    add_sums(into, from, sizeof *into);
}

void profile_rescale(struct profile *profile)
{
    for (uint32_t i = 0; i < profile->cells; i++) {
        struct cell *cell = &profile->cell[i];
        const struct type_totals *totals = profile_find_type(profile, cell->type);
        double factor = totals != NULL ? factor_of(totals) : 1.0;
        for (int state = 0; state < SAMPLE_STATES; state++) {
            cell->wall[state] *= factor;
            cell->slow[state] = (float)(cell->slow[state] * factor);
        }
        cell->cpu *= factor;
        cell->typical = (float)(cell->typical * factor);
        scale_stack(&cell->spread, factor);
    }
    for (uint32_t i = 0; i < profile->types; i++) {
        struct type_totals *totals = &profile->type[i];
        double factor = factor_of(totals);
        totals->weight *= factor;
        totals->latency *= factor;
        totals->run_delay *= factor;
        totals->run_latency *= factor;
        totals->cpu *= factor;
        totals->cpu_latency *= factor;
        scale_type(&totals->spread, factor);
    }
}

static int merge_type(struct profile *into, const struct type_totals *from)
{
    struct type_totals *totals = profile_type(into, from->type);
    if (totals == NULL)
        return fault(ENOMEM, "profile");
    totals->slow += from->slow;
    totals->typical += from->typical;
    totals->count += from->count;
    totals->errors += from->errors;
    totals->profiled += from->profiled;
    totals->latency_sum_ns += from->latency_sum_ns;
    if (totals->latency_max_ns < from->latency_max_ns)
        totals->latency_max_ns = from->latency_max_ns;
    for (int i = 0; i < DENIALS; i++)
        totals->denied[i] += from->denied[i];
    totals->ended += from->ended;
    totals->late += from->late;
    totals->weight += from->weight;
    totals->latency += from->latency;
    totals->run_delay += from->run_delay;
    totals->run_latency += from->run_latency;
    totals->cpu += from->cpu;
    totals->cpu_latency += from->cpu_latency;
    add_sums(&totals->spread, &from->spread, sizeof totals->spread);
    return histogram_merge(&totals->histogram, &from->histogram);
}

int profile_merge(struct profile *into, const struct profile *from)
{
    int rc = 0;
    for (uint32_t i = 0; i < from->types && rc == 0; i++)
        rc = merge_type(into, &from->type[i]);
    for (uint32_t i = 0; i < from->cells && rc == 0; i++) {
        const struct cell *cell = &from->cell[i];
        struct cell *sum = cell_or_rest(into, cell->type, cell->stack, cell->samples);
        if (sum == NULL)
            return fault(ENOMEM, "profile");
        sum->samples += cell->samples;
        sum->typical += cell->typical;
        sum->cpu += cell->cpu;
        profile_add_spread(&sum->spread, &cell->spread);
        for (int state = 0; state < SAMPLE_STATES; state++) {
            sum->wall[state] += cell->wall[state];
            sum->slow[state] += cell->slow[state];
        }
    }
    into->folded += from->folded;
    return rc;
}

struct cell *profile_cells_of(const struct profile *profile, uint32_t type, uint32_t *count)
{
    struct cell *cell = malloc((profile->cells + 1) * sizeof *cell);
    *count = 0;
    for (uint32_t i = 0; cell != NULL && i < profile->cells; i++)
        if (profile->cell[i].type == type)
            cell[(*count)++] = profile->cell[i];
    return cell;
}
