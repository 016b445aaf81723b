/* `profilomatic export`: converts a profile. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "aggregator/cli/cli.h"
#include "aggregator/cli/export.h"
#include "aggregator/cli/selection.h"
#include "shm/fault.h"

static const char *const units[] = {"samples", "wall", "cpu", NULL}; /* as enum collapsed_unit */

static void print_help(void)
{
    printf(
        "usage: profilomatic export [options] [FILE]\n\n"
        "Writes a profile in another form: FILE (saved by `run -o` or `export -F json`; - for stdin), or "
        "what the\n"
        "running aggregator has.\n\n"
        "  -F, --format FORMAT  json (default): the report with its call trees;\n"
        "                       collapsed: a line a stack, for flame graphs;\n"
        "                       classic: a message a line for each action type, with its call tree\n"
        "  -o, --output OUT     write to OUT instead of stdout\n"
        "  --unit UNIT          collapsed counts samples (default), wall or cpu microseconds\n" SELECTION_HELP
        "  --help               this text\n\n"
        "exit status: 0 ok, 1 failed, 2 usage, 3 no action or stack matched\n");
}

static int index_of(const char *name, const char *const *names)
{
    int i = 0;
    while (strcmp(name, names[i]) != 0)
        i++;
    return i;
}

/* What the options ask for has been read: load, convert, tell. */
static int export_selection(const struct selection *selection, const char *format, const char *unit,
                            const char *path)
{
    json_t *report = NULL;
    int status = selection_load(selection, &report);
    if (report == NULL)
        return status;
    long written = export_write(report, format, (enum collapsed_unit)index_of(unit, units), path);
    json_decref(report);
    if (written < 0) {
        complain("%s", fault_text());
        return CLI_FAILED;
    }
    if (status == CLI_OK && written == 0) {
        complain("no stacks to write: nothing was profiled, or the report was saved without its call trees");
        return CLI_NOTHING;
    }
    return status;
}

int verb_export(int argc, char **argv)
{
    static const struct option options[] = {SELECTION_LONG,
                                            {"format", required_argument, NULL, 'F'},
                                            {"output", required_argument, NULL, 'o'},
                                            {"unit", required_argument, NULL, OPTION_OTHERS},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct selection selection = {.limit = SELECTION_LIMIT, .stacks = true};
    const char *format = "json", *unit = "samples", *path = NULL;
    int option;
    while ((option = getopt_long(argc, argv, ":" SELECTION_SHORT "F:o:h", options, NULL)) != -1) {
        bool good = true;
        switch (option) {
        case '?':
        case ':':
            return option_error("export", option, argv, options);
        case 'h':
            print_help();
            return CLI_OK;
        case 'F':
            good = parse_choice("--format", format = optarg, export_formats);
            break;
        case 'o':
            path = optarg;
            break;
        case OPTION_OTHERS:
            good = parse_choice("--unit", unit = optarg, units);
            break;
        default:
            good = selection_option(&selection, option, optarg);
        }
        if (!good)
            return usage_error("export");
    }
    if (!selection_file(&selection, argc - optind, argv + optind))
        return usage_error("export");
    return export_selection(&selection, format, unit, path);
}
