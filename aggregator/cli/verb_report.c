/* `profilomatic report`: slow actions linked to lines. */
#include <getopt.h>
#include <stdio.h>

#include "aggregator/cli/cli.h"
#include "aggregator/cli/selection.h"
#include "aggregator/cli/text.h"

static void print_help(void)
{
    printf("usage: profilomatic report [options] [FILE]\n\n"
           "Prints which actions are slow, which lines make them slow, and why: from FILE (saved by `run -o` "
           "or\n"
           "`export -F json`; - for stdin), or from the running aggregator.\n\n" SELECTION_HELP
           "  --json               print the report object (one line of JSON)\n"
           "  --help               this text\n\n"
           "exit status: 0 ok, 1 failed, 2 usage, 3 no action matched\n");
}

int verb_report(int argc, char **argv)
{
    static const struct option options[] = {SELECTION_LONG,
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct selection selection = {.limit = UINT32_MAX};
    bool json = false;
    int option;
    while ((option = getopt_long(argc, argv, ":" SELECTION_SHORT "h", options, NULL)) != -1) {
        if (option == 'h') {
            print_help();
            return CLI_OK;
        }
        if (option == '?' || option == ':')
            return option_error("report", option, argv, options);
        if (option == 'j')
            json = true;
        else if (!selection_option(&selection, option, optarg))
            return usage_error("report");
    }
    if (!selection_file(&selection, argc - optind, argv + optind))
        return usage_error("report");
    if (selection.limit == UINT32_MAX)
        selection.limit = json ? SELECTION_LIMIT : TEXT_ROWS;

    json_t *report = NULL;
    int status = selection_load(&selection, &report);
    if (report == NULL)
        return status;
    if (json && json_dumpf(report, stdout, JSON_COMPACT | JSON_REAL_PRECISION(12)) == 0)
        putchar('\n');
    else if (!json)
        text_report(stdout, report, selection.action == NULL ? TEXT_ACTIONS : SIZE_MAX);
    json_decref(report);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        complain("cannot write the report to stdout");
        return CLI_FAILED;
    }
    return status;
}
