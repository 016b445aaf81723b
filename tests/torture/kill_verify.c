/* What the pool holds against what the ledgers say: see kill.h. */
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/pool.h"
#include "shm/fault.h"
#include "tests/torture/kill.h"

enum {
    TOLD_MOST = 20, /* differences that are printed */
};

/* As the pool's windows have it. */
struct seen {
    uint64_t samples;
    double wall, cpu;
};

struct class_sums {
    uint64_t ended_root, ended_nested, counted, histogram, counted_latency;
    double latency_root, latency_nested;
};

struct found {
    struct seen outside[LIVES_MOST], root[LIVES_MOST], nested[LIVES_MOST];
    struct class_sums class[CLASSES];
    struct window_sums sums;
    uint64_t strange; /* cells and types that nobody made */
};

static unsigned differences;

static void check(bool right, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void check(bool right, const char *format, ...)
{
    if (right)
        return;
    if (++differences <= TOLD_MOST) {
        va_list arguments;
        va_start(arguments, format);
        vprintf(format, arguments);
        va_end(arguments);
        putchar('\n');
    }
}

static bool number_after(const char *text, const char *word, uint32_t most, uint32_t *number)
{
    size_t length = strlen(word);
    char *end;
    if (strncmp(text, word, length) != 0)
        return false;
    *number = (uint32_t)strtoul(text + length, &end, 10);
    return end != text + length && (*end == '\0' || *end == ':') && *number < most;
}

static void add_cell(struct found *found, const struct merge *merge, const struct cell *cell)
{
    struct stack_node node = stacks_node(&merge->stacks, cell->stack);
    const char *type = names_text(&merge->types, cell->type);
    uint32_t life, class;
    if (!number_after(names_text(&merge->instructions, node.instruction), "w", LIVES_MOST, &life)) {
        found->strange++;
        return;
    }
    struct seen *seen = NULL;
    if (strcmp(type, "(outside any action)") == 0)
        seen = &found->outside[life];
    else if (number_after(type, "root", CLASSES, &class) && class == life % CLASSES)
        seen = &found->root[life];
    else if (number_after(type, "nested", CLASSES, &class) && class == life % CLASSES)
        seen = &found->nested[life];
    if (seen == NULL) {
        found->strange++;
        return;
    }
    seen->samples += cell->samples;
    seen->wall += cell->wall[STATE_NATIVE];
    seen->cpu += cell->cpu;
}

static void add_type(struct found *found, const struct merge *merge, const struct type_totals *totals)
{
    const char *type = names_text(&merge->types, totals->type);
    uint32_t class;
    if (number_after(type, "root", CLASSES, &class)) {
        found->class[class].ended_root += totals->ended;
        found->class[class].latency_root += totals->latency;
    } else if (number_after(type, "nested", CLASSES, &class)) {
        found->class[class].ended_nested += totals->ended;
        found->class[class].latency_nested += totals->latency;
    } else if (number_after(type, "counted", CLASSES, &class)) {
        found->class[class].counted += totals->count;
        found->class[class].histogram += histogram_total(&totals->histogram);
        found->class[class].counted_latency += totals->latency_sum_ns;
    } else if (totals->count != 0 || totals->ended != 0) {
        found->strange++;
    }
}

static void add_window(struct found *found, const struct merge *merge, const struct window *window)
{
    const uint64_t *from = (const uint64_t *)(const void *)&window->sums;
    uint64_t *to = (uint64_t *)(void *)&found->sums;
    for (size_t i = 0; i < sizeof found->sums / sizeof *to; i++)
        to[i] += from[i];
    for (uint32_t i = 0; i < window->profile.types; i++)
        add_type(found, merge, &window->profile.type[i]);
    for (uint32_t i = 0; i < window->profile.cells; i++)
        add_cell(found, merge, &window->profile.cell[i]);
    found->strange += window->profile.folded;
}

static void compare(uint32_t life, const char *what, const struct seen *seen, const struct sums *truth)
{
    check(seen->samples == truth->samples && seen->wall == (double)truth->wall &&
              seen->cpu == (double)truth->cpu,
          "life %u, %s: %llu samples of %.0f and %.0f, committed were %llu of %llu and %llu", life, what,
          (unsigned long long)seen->samples, seen->wall, seen->cpu, (unsigned long long)truth->samples,
          (unsigned long long)truth->wall, (unsigned long long)truth->cpu);
}

static void compare_class(uint32_t class, const struct class_sums *seen, const struct shared *shared)
{
    uint64_t root = 0, nested = 0, latency_root = 0, latency_nested = 0, whole = 0, half = 0, bucket = 0;
    for (uint32_t i = class; i < LIVES_MOST; i += CLASSES) {
        const struct life *life = &shared->life[i];
        root += life->truth.ended_root;
        nested += life->truth.ended_nested;
        latency_root += life->truth.latency_root;
        latency_nested += life->truth.latency_nested;
        whole += life->counted;
        half += life->counted_half;
        bucket += life->counted_bucket;
    }
    check(seen->ended_root == root && seen->latency_root == (double)latency_root,
          "class %u: %llu root actions ended, of %.0f ns, committed were %llu of %llu", class,
          (unsigned long long)seen->ended_root, seen->latency_root, (unsigned long long)root,
          (unsigned long long)latency_root);
    check(seen->ended_nested == nested && seen->latency_nested == (double)latency_nested,
          "class %u: %llu nested actions ended, of %.0f ns, committed were %llu of %llu", class,
          (unsigned long long)seen->ended_nested, seen->latency_nested, (unsigned long long)nested,
          (unsigned long long)latency_nested);
    check(seen->counted >= whole && seen->counted <= half,
          "class %u: %llu actions counted, committed were %llu to %llu", class,
          (unsigned long long)seen->counted, (unsigned long long)whole, (unsigned long long)half);
    check(seen->histogram >= whole && seen->histogram <= bucket,
          "class %u: %llu latencies, committed were %llu to %llu", class, (unsigned long long)seen->histogram,
          (unsigned long long)whole, (unsigned long long)bucket);
    check(seen->counted_latency >= whole * COUNTED_NS && seen->counted_latency <= half * COUNTED_NS,
          "class %u: latencies of %llu ns in all, committed were %llu to %llu actions", class,
          (unsigned long long)seen->counted_latency, (unsigned long long)whole, (unsigned long long)half);
}

static void compare_total(const char *what, uint64_t seen, uint64_t truth)
{
    check(seen == truth, "%s: %llu, should be %llu", what, (unsigned long long)seen,
          (unsigned long long)truth);
}

static void compare_all(const struct found *found, const struct shared *shared)
{
    uint64_t samples = 0, dropped = 0, unended = 0, hooks = 0, admitted = 0;
    for (uint32_t i = 0; i < LIVES_MOST; i++) {
        const struct life *life = &shared->life[i];
        uint64_t lost = life->truth.lost[LANE_SAMPLER] + life->truth.lost[LANE_ACTION];
        samples += life->truth.samples;
        dropped += life->truth.refused;
        check(lost == life->truth.refused, "life %u: %llu records counted as lost, refused were %llu", i,
              (unsigned long long)lost, (unsigned long long)life->truth.refused);
        unended += life->truth.unended;
        hooks += life->hooks;
        admitted += life->admitted;
    }
    compare_total("samples", found->sums.samples, samples);
    compare_total("dropped records", found->sums.dropped, dropped);
    compare_total("actions without an end", found->sums.unfinished, unended);
    compare_total("hooks", found->sums.hooks, hooks);
    compare_total("admitted actions", found->sums.admitted, admitted);
    compare_total("samples that came late", found->sums.late, 0);
    compare_total("segments quarantined", found->sums.quarantined, 0);
    compare_total("actions folded", found->sums.folded, 0);
    compare_total("things that nobody put", found->strange, 0);
    compare_total("sets of rates that nobody published", shared->wrong_rates, 0);
    for (uint32_t i = 0; i < TOKEN_CYCLES; i++)
        check(shared->tokens[i] <= TOKENS_A_CYCLE, "%u tokens in a cycle", shared->tokens[i]);
    for (uint32_t i = 0; i < LIVES_MOST; i++) {
        const struct book *truth = &shared->life[i].truth;
        compare(i, "outside", &found->outside[i], &truth->outside);
        compare(i, "root", &found->root[i], &truth->root);
        compare(i, "nested", &found->nested[i], &truth->nested);
    }
    for (uint32_t class = 0; class < CLASSES; class ++)
        compare_class(class, &found->class[class], shared);
    printf("%llu samples, %llu records dropped, %llu actions without an end: %u differences\n",
           (unsigned long long)samples, (unsigned long long)dropped, (unsigned long long)unended,
           differences);
}

/* The final report adds the windows up once more, into one. */
static void compare_report(const struct found *found, const char *path)
{
    json_t *report = json_load_file(path, 0, NULL), *action;
    check(report != NULL, "no report");
    if (report == NULL)
        return;
    uint64_t counted = 0, in_windows = 0;
    size_t i;
    json_array_foreach(json_object_get(report, "actions"), i, action)
    {
        counted += (uint64_t)json_integer_value(json_object_get(action, "count"));
    }
    for (i = 0; i < CLASSES; i++)
        in_windows += found->class[i].counted;
    compare_total("actions in the report", counted, in_windows);
    compare_total("samples in the report", (uint64_t)json_integer_value(json_object_get(report, "samples")),
                  found->sums.samples);
    compare_total("dropped records in the report",
                  (uint64_t)json_integer_value(json_object_get(report, "dropped")), found->sums.dropped);
    json_decref(report);
}

unsigned verify(const struct shared *shared, const char *directory, const char *name, const char *report)
{
    static struct found found;
    static struct config config;
    struct pool *pool;
    memset(&found, 0, sizeof found);
    differences = 0;
    if (pool_open(&pool, directory, name, &config) != 0) {
        printf("the pool cannot be opened: %s\n", fault_text());
        return 1;
    }
    for (uint32_t i = 0; i < pool->windows.count; i++)
        add_window(&found, &pool->merge, pool->windows.closed[i]);
    add_window(&found, &pool->merge, pool->merge.open);
    compare_total("actions still open", pool->merge.actions.actions_used, 0);
    compare_total("segments left", pool->workers != NULL, 0);
    compare_report(&found, report);
    compare_all(&found, shared);
    pool_close(pool);
    return differences;
}
