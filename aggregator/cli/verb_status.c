/* `profilomatic status`: is the aggregator well, who is attached, what does it cost. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "aggregator/cli/cli.h"
#include "aggregator/cli/client.h"
#include "aggregator/cli/selection.h"
#include "aggregator/cli/text.h"
#include "shm/fault.h"

static void print_help(void)
{
    printf("usage: profilomatic status [options]\n\n"
           "Prints each pool's workers, its overhead against the budget, its limits, its destinations and "
           "what was\n"
           "dropped.\n\n"
           "  --source NAME        this pool only\n"
           "  --directory DIR      the aggregator's runtime directory (default: PROFILOMATIC_DIR, "
           "/run/profilomatic or\n"
           "                       /dev/shm/profilomatic-UID)\n"
           "  --history            with what the budget went into in the last hour\n"
           "  --json               print one line of JSON\n"
           "  --help               this text\n\n"
           "exit status: 0 the aggregator answers, 1 it does not, 2 usage, 3 no such pool\n");
}

static int keep_pool(json_t *status, const char *source)
{
    json_t *pools = json_object_get(status, "pools");
    for (size_t i = json_array_size(pools); source != NULL && i-- > 0;) {
        const char *name = json_string_value(json_object_get(json_array_get(pools, i), "source"));
        if (name == NULL || strcmp(name, source) != 0)
            json_array_remove(pools, i);
    }
    if (source == NULL || json_array_size(pools) != 0)
        return CLI_OK;
    complain("no pool of the source \"%s\" here; `profilomatic status` lists all", source);
    return CLI_NOTHING;
}

int verb_status(int argc, char **argv)
{
    static const struct option options[] = {{"source", required_argument, NULL, OPTION_SOURCE},
                                            {"directory", required_argument, NULL, OPTION_DIRECTORY},
                                            {"history", no_argument, NULL, 'H'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct selection selection = {0};
    bool json = false, history = false;
    int option;
    while ((option = getopt_long(argc, argv,
                                 ":"
                                 "h",
                                 options, NULL)) != -1) {
        if (option == 'h') {
            print_help();
            return CLI_OK;
        }
        if (option == '?' || option == ':')
            return option_error("status", option, argv, options);
        if (option == 'j')
            json = true;
        else if (option == 'H')
            history = true;
        else if (!selection_option(&selection, option, optarg))
            return usage_error("status");
    }
    if (optind < argc) {
        complain("\"%s\": status takes no argument", argv[optind]);
        return usage_error("status");
    }
    json_t *status = NULL, *request = json_pack("{s:s,s:b}", "verb", "status", "history", history);
    int rc = client_ask(selection.directory, request, &status);
    json_decref(request);
    if (rc != 0) {
        complain("%s", fault_text());
        return CLI_FAILED;
    }
    int found = keep_pool(status, selection.source);
    if (json && json_dumpf(status, stdout, JSON_COMPACT | JSON_REAL_PRECISION(12)) == 0)
        putchar('\n');
    else if (!json && found == CLI_OK)
        text_status(stdout, status);
    json_decref(status);
    return found;
}
