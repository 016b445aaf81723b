/* The command `profilomatic`: finds the verb. */
#include <stdio.h>
#include <string.h>

#include "aggregator/cli/cli.h"

static const struct verb {
    const char *name, *does;
    int (*run)(int argc, char **argv);
} verbs[] = {
    {"run", "run a command with profiling switched on in every Python process under it", verb_run},
    {"report", "slow actions linked to lines, from a running aggregator or a saved profile", verb_report},
    {"export", "write a profile as json, collapsed stacks or classic messages", verb_export},
    {"status", "workers, overhead against budget, drops", verb_status},
};
enum {
    VERBS = sizeof verbs / sizeof *verbs,
};

static void print_help(FILE *out)
{
    fprintf(out,
            "usage: profilomatic VERB [options]\n\n"
            "Always-on profiler for pre-forked Python web applications: which actions are slow, which lines\n"
            "make them slow, and why, within an agreed overhead over all workers.\n\n");
    for (unsigned i = 0; i < VERBS; i++)
        fprintf(out, "  %-8s %s\n", verbs[i].name, verbs[i].does);
    fprintf(out, "\n  profilomatic VERB --help    the verb's options\n"
                 "  profilomatic --version      the version\n\n"
                 "exit status: 0 ok, 1 failed, 2 usage, 3 no data matched; `run` has its command's\n");
}

int main(int argc, char **argv)
{
    static char wants_help[] = "--help";
    const char *names[VERBS + 1] = {NULL};
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    const char *word = argv[1];
    bool help = strcmp(word, "help") == 0;
    if (help && argc > 2) { /* "help run" is "run --help" */
        word = argv[2];
        argv[2] = wants_help;
        argc = 3;
    } else if (help || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        print_help(stdout);
        return CLI_OK;
    }
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        printf("profilomatic %s\n", CLI_VERSION);
        return CLI_OK;
    }
    for (unsigned i = 0; i < VERBS; i++) {
        if (strcmp(word, verbs[i].name) == 0)
            return verbs[i].run(argc - 1, argv + 1);
        names[i] = verbs[i].name;
    }
    const char *near = nearest_name(word, names);
    if (near != NULL)
        complain("there is no verb \"%s\"; did you mean \"%s\"?", word, near);
    else
        complain("there is no verb \"%s\"", word);
    return usage_error("");
}
