/* A pool's state as text, so that two lives of it can be compared. Header-only, because each test is a
 * program of one file. */
#ifndef TESTS_POOL_STATE_H
#define TESTS_POOL_STATE_H

#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/pool.h"

struct text {
    char *bytes;
    size_t size, room;
    char **line;
    size_t lines;
};

static void say(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(struct text *text, const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    ck_assert_int_lt(n, (int)sizeof line);
    text->line = realloc(text->line, (text->lines + 1) * sizeof *text->line);
    text->line[text->lines++] = strdup(line);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sorted: in which order things stand in tables is nobody's business. */
static char *finish(struct text *text)
{
    qsort(text->line, text->lines, sizeof *text->line, by_text);
    for (size_t i = 0; i < text->lines; i++) {
        size_t n = strlen(text->line[i]);
        text->bytes = realloc(text->bytes, text->size + n + 2);
        memcpy(text->bytes + text->size, text->line[i], n);
        text->size += n;
        text->bytes[text->size++] = '\n';
        free(text->line[i]);
    }
    text->bytes[text->size] = '\0';
    free(text->line);
    return text->bytes;
}

static void tell_window(struct text *text, const struct window *window, const char *name)
{
    const uint64_t *sum = (const uint64_t *)(const void *)&window->sums;
    for (size_t i = 0; i < sizeof window->sums / sizeof *sum; i++)
        say(text, "%s sum %zu %llu", name, i, (unsigned long long)sum[i]);
    for (uint32_t i = 0; i < window->workers; i++)
        say(text, "%s worker %llx", name, (unsigned long long)window->worker[i]);
    for (uint32_t i = 0; i < window->profile.types; i++) {
        const struct type_totals *t = &window->profile.type[i];
        say(text, "%s type %u: %u %u %llu %llu %llu %llu %llu %llu %a %a %a %a", name, t->type, t->slow,
            t->typical, (unsigned long long)t->count, (unsigned long long)t->errors,
            (unsigned long long)t->profiled, (unsigned long long)t->latency_sum_ns,
            (unsigned long long)t->latency_max_ns, (unsigned long long)t->ended, t->weight, t->latency,
            t->cpu, t->run_delay);
        for (uint32_t k = 0; k < t->histogram.used; k++)
            say(text, "%s type %u bucket %u: %llu", name, t->type, t->histogram.entry[k].bucket,
                (unsigned long long)t->histogram.entry[k].count);
    }
    for (uint32_t i = 0; i < window->profile.cells; i++) {
        const struct cell *c = &window->profile.cell[i];
        say(text, "%s cell %u %u: %u %a %a %a %a %a %a", name, c->type, c->stack, c->samples, c->typical,
            c->wall[0], c->wall[1], c->wall[2], c->wall[3], c->cpu);
    }
}

static void tell_actions(struct text *text, const struct actions *actions)
{
    for (uint32_t i = 0; i < actions->actions_high; i++) {
        const struct action *a = &actions->action[i];
        if (!a->used || a->closed)
            continue;
        uint32_t around = actions_enclosing(actions, i);
        uint64_t square = 0;
        for (uint32_t s = a->first_sample; s != ACTIONS_NONE; s = actions->sample[s].next)
            square += actions->sample[s].wall_ns * actions->sample[s].wall_ns + actions->sample[s].serial;
        say(text, "action %u/%llu in %llu: type %u ended %d in %llu folded %d, %u samples %llx", a->worker,
            (unsigned long long)a->begin.action_serial,
            around == ACTIONS_NONE ? 0 : (unsigned long long)actions->action[around].begin.action_serial,
            a->type, a->ended, a->ended ? (unsigned long long)a->ended_round : 0, a->folded, a->samples,
            (unsigned long long)square);
        for (const struct held_message *m = a->messages.first; m != NULL; m = m->next)
            say(text, "message of %u/%llu: %llu %u %u %.*s", a->worker, (unsigned long long)m->serial,
                (unsigned long long)m->time_ns, m->depth, m->flags, (int)m->length, m->text);
    }
    say(text, "samples %u ended %u", actions->samples_used, actions->ended);
}

static void tell_worker(struct text *text, const uint8_t uuid[16], uint32_t number, const uint64_t *position,
                        uint64_t cpu_ns, bool quarantined, const struct taken *taken)
{
    say(text, "worker %u %02x%02x: %llu %llu cpu %llu quarantined %d", number, uuid[0], uuid[1],
        (unsigned long long)position[0], (unsigned long long)position[1], (unsigned long long)cpu_ns,
        quarantined);
    const uint64_t *word = (const uint64_t *)(const void *)&taken->page;
    for (size_t i = 0; i < sizeof taken->page / sizeof *word; i++)
        if (word[i] != 0)
            say(text, "worker %u page %zu: %llu", number, i, (unsigned long long)word[i]);
    for (uint32_t r = 0; r < taken->rows; r++)
        if (taken->row[r].changes != 0)
            say(text, "worker %u row %u: %llu %llu %llu %llu", number, r,
                (unsigned long long)taken->row[r].changes, (unsigned long long)taken->row[r].count,
                (unsigned long long)taken->row[r].errors, (unsigned long long)taken->row[r].latency_sum_ns);
    for (uint32_t b = 0; b < taken->blocks; b++)
        for (int sub = 0; taken->block_owner[b] != 0 && sub < HISTOGRAM_SUB; sub++)
            say(text, "worker %u block %u of %u: %d %u", number, b, taken->block_owner[b], sub,
                taken->block[b][sub]);
}

/** All that a checkpoint tells of: a line for each fact. To be freed. */
static inline char *state_of(const struct pool *p)
{
    struct text text = {0};
    char name[16];
    for (uint32_t i = 0; i < p->windows.count; i++) {
        snprintf(name, sizeof name, "window %u", i);
        tell_window(&text, p->windows.closed[i], name);
    }
    tell_window(&text, p->merge.open, "open");
    tell_actions(&text, &p->merge.actions);
    for (const struct worker *w = p->workers; w != NULL; w = w->next)
        tell_worker(&text, w->header.uuid, w->number, w->position, w->cpu_ns, w->quarantined, &w->taken);
    for (const struct known_worker *k = p->known; k != NULL; k = k->next)
        tell_worker(&text, k->uuid, k->number, k->position, k->cpu_ns, k->quarantined, &k->taken);
    say(&text, "names %u %u %u, next %u, round %llu", names_count(&p->merge.types),
        names_count(&p->merge.instructions), stacks_count(&p->merge.stacks), p->next_number,
        (unsigned long long)p->merge.round);
    return finish(&text);
}

/** The first lines in which two states differ. */
static inline const char *first_difference(const char *here, const char *there)
{
    static char words[1100];
    size_t at = 0, line = 0;
    for (; here[at] != '\0' && here[at] == there[at]; at++)
        if (here[at] == '\n')
            line = at + 1;
    snprintf(words, sizeof words, "live: %.500s\nloaded: %.500s", here + line, there + line);
    return words;
}

#endif
