/* profilomatic-aggregator: options, then one service until it is told to stop. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <urcu.h>

#include "aggregator/destination/destination.h"
#include "aggregator/log.h"
#include "aggregator/service.h"
#include "shm/fault.h"

enum {
    EXIT_USAGE = 2,
};

static const char usage[] =
    "usage: profilomatic-aggregator [options]\n"
    "\n"
    "Merges what profiled workers record in a runtime directory, keeps their overhead under its cap, "
    "delivers\n"
    "messages and answers `profilomatic report` and `profilomatic status`. Exactly one serves a directory.\n"
    "\n"
    "  --directory DIR       the runtime directory (default: $PROFILOMATIC_DIR, else /run/profilomatic if it "
    "may\n"
    "                        be written, else /dev/shm/profilomatic-<uid>)\n"
    "  --config FILE         the operator's limits; read again on SIGHUP\n"
    "  --private             end by itself when the last worker has gone, and remove what was made\n"
    "  --linger SECONDS      how long a private service waits for another worker (default 5)\n"
    "  --final-report FILE   write the report object, with stacks, at the end\n"
    "  --once                merge what is there, write checkpoint and final report, and end\n"
    "  --log FILE            log to a file of bounded size (default: standard error; with --private\n"
    "                        aggregator.log in the directory)\n"
    "  --version, --help\n"
    "\n"
    "SIGTERM or SIGINT: drain, deliver, write the final report, end with status 0.\n";

struct arguments {
    struct service_options service;
    const char *log;
};

static bool parse_seconds(const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    return end != text && *end == '\0' && *out >= 0 && *out < 1e9;
}

/* Returns the exit status, or -1 to go on. */
static int parse(int argc, char **argv, struct arguments *out)
{
    enum { DIRECTORY = 256, CONFIG, PRIVATE, LINGER, FINAL_REPORT, ONCE, LOG, VERSION, HELP };
    static const struct option options[] = {
        {"directory", required_argument, NULL, DIRECTORY},
        {"config", required_argument, NULL, CONFIG},
        {"private", no_argument, NULL, PRIVATE},
        {"linger", required_argument, NULL, LINGER},
        {"final-report", required_argument, NULL, FINAL_REPORT},
        {"once", no_argument, NULL, ONCE},
        {"log", required_argument, NULL, LOG},
        {"version", no_argument, NULL, VERSION},
        {"help", no_argument, NULL, HELP},
        {0},
    };
    for (int o; (o = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (o) {
        case DIRECTORY:
            out->service.directory = optarg;
            break;
        case CONFIG:
            out->service.config_path = optarg;
            break;
        case PRIVATE:
            out->service.private = true;
            break;
        case LINGER:
            if (!parse_seconds(optarg, &out->service.linger_s)) {
                fprintf(stderr, "profilomatic-aggregator: --linger wants seconds, not '%s'\n", optarg);
                return EXIT_USAGE;
            }
            break;
        case FINAL_REPORT:
            out->service.final_report = optarg;
            break;
        case ONCE:
            out->service.once = true;
            break;
        case LOG:
            out->log = optarg;
            break;
        case VERSION:
            printf("profilomatic-aggregator %s\n", SERVICE_VERSION);
            return 0;
        case HELP:
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            fputs("profilomatic-aggregator --help lists the options\n", stderr);
            return EXIT_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "profilomatic-aggregator: unexpected argument '%s'; see --help\n", argv[optind]);
        return EXIT_USAGE;
    }
    return -1;
}

/* A private one inherits what an application set for itself. Each worker takes two descriptors; and a file
 * that grew to its limit is an error to be told, not a signal that ends the service. */
static void raise_limits(void)
{
    static const int limits[] = {RLIMIT_NOFILE, RLIMIT_FSIZE};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        struct rlimit limit;
        if (getrlimit((unsigned)limits[i], &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
            limit.rlim_cur = limit.rlim_max;
            setrlimit((unsigned)limits[i], &limit);
        }
    }
    signal(SIGXFSZ, SIG_IGN);
}

int main(int argc, char **argv)
{
    static struct service service;
    static char directory[DIRECTORY_PATH_MAX], own_log[DIRECTORY_PATH_MAX];
    struct arguments arguments = {.service.linger_s = 5};
    int status = parse(argc, argv, &arguments);
    if (status >= 0)
        return status;
    if (arguments.service.directory == NULL) {
        if (directory_default(directory) != 0) {
            fprintf(stderr, "profilomatic-aggregator: %s\n", fault_text());
            return EXIT_FAILURE;
        }
        arguments.service.directory = directory;
    }
    raise_limits();
    rcu_init();
    rcu_register_thread();
    int rc = destinations_start();
    if (rc == 0)
        rc = service_open(&service, &arguments.service);
    /* Only the one that serves may write its log there. */
    if (rc == 0 && arguments.log == NULL && arguments.service.private &&
        directory_join(own_log, arguments.service.directory, DIRECTORY_LOG) == 0)
        arguments.log = own_log;
    if (rc == 0 && log_open(arguments.log) != 0)
        log_line("%s", fault_text());
    if (rc == 0 && !arguments.service.once) {
        rc = service_talk(&service);
        if (rc == 0)
            service_run(&service);
    }
    if (rc != 0) {
        /* Many workers may each start a private one at the same time; that one of them serves is as it should
         * be. */
        if (rc != -EWOULDBLOCK || !arguments.service.private)
            log_line("%s", fault_text());
        log_close();
        return EXIT_FAILURE;
    }
    rc = service_close(&service);
    log_close();
    /* A private one leaves nothing behind; the folder stays if somebody else uses it. */
    if (arguments.service.private && !service.lost)
        rmdir(arguments.service.directory);
    rcu_unregister_thread();
    return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
