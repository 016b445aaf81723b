/* Dying and dawdling on demand, in test builds only: see testpoint.h. */
#include "shm/testpoint.h"

#ifdef POM_TESTPOINTS

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The linker names the section's ends. */
extern const char *const __start_pom_testpoints[];
extern const char *const __stop_pom_testpoints[];

struct order {
    char label[64];
    unsigned long number; /* which time; or microseconds */
};
static struct order kill_at, pause_at;
static atomic_ulong reached;

static void read_order(struct order *order, const char *text)
{
    const char *colon = text != NULL ? strchr(text, ':') : NULL;
    size_t length = text == NULL ? 0 : colon != NULL ? (size_t)(colon - text) : strlen(text);
    if (length >= sizeof order->label)
        length = sizeof order->label - 1;
    memset(order, 0, sizeof *order);
    if (length != 0)
        memcpy(order->label, text, length);
    order->number = colon != NULL ? strtoul(colon + 1, NULL, 10) : 1;
}

void testpoint_list(void (*each)(const char *label, void *context), void *context)
{
    for (const char *const *label = __start_pom_testpoints; label < __stop_pom_testpoints; label++)
        each(*label, context);
}

static void print(const char *label, void *context)
{
    (void)context;
    puts(label);
}

__attribute__((constructor)) static void read_environment(void)
{
    read_order(&kill_at, getenv("POM_TESTPOINT"));
    read_order(&pause_at, getenv("POM_TESTPOINT_PAUSE"));
    if (strcmp(kill_at.label, "list") != 0)
        return;
    testpoint_list(print, NULL);
    fflush(stdout);
    _exit(0);
}

void testpoint_arm(const char *label, unsigned n)
{
    read_order(&kill_at, label);
    if (label == NULL || strchr(label, ':') == NULL)
        kill_at.number = n;
    atomic_store(&reached, 0);
}

void testpoint_reached(const char *label)
{
    if (pause_at.label[0] != '\0' && strcmp(label, pause_at.label) == 0)
        usleep((useconds_t)pause_at.number);
    if (kill_at.label[0] != '\0' && strcmp(label, kill_at.label) == 0 &&
        atomic_fetch_add(&reached, 1) + 1 == kill_at.number)
        kill(getpid(), SIGKILL);
}

#endif
