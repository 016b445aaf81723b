/*
 * `profilomatic run`: a command with profiling switched on in every Python process under it.
 *
 * This process stays the parent. It waits for one thing at a time with sigwaitinfo(): a child's end, or a
 * signal to hand on. Whatever fails on our side, the command runs, and its exit status is ours.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "aggregator/budget.h"
#include "aggregator/cli/cli.h"
#include "aggregator/cli/export.h"
#include "aggregator/cli/places.h"
#include "aggregator/cli/private_directory.h"
#include "aggregator/cli/selection.h"
#include "aggregator/cli/service.h"
#include "aggregator/cli/survivors.h"
#include "aggregator/cli/text.h"
#include "shm/fault.h"

enum {
    OPTION_MAX_OVERHEAD = OPTION_OTHERS,
    OPTION_INTERVAL,
    OPTION_GRANULARITY,
    OPTION_MAX_ACTIONS,
    OPTION_SCOPE,
    OPTION_QUIET,
};

/* Bounds that the Python package sets as well (settings.py). */
#define INTERVAL_LEAST 0.001
#define INTERVAL_MOST 10
#define MAX_ACTIONS_MOST INT32_MAX

static const char *const granularities[] = {"file", "method", "line", NULL};
static const char *const scopes[] = {"actions", "process", NULL};

struct run_options {
    char max_overhead[32], interval[32], max_actions[32]; /* as the environment takes them; "": not given */
    const char *granularity, *source, *scope, *output, *format;
    bool quiet;
    struct selection shown;
    char **command;
};

struct run {
    const struct run_options *options;
    struct private_directory directory;
    struct service service;
    char python[PLACES_PATH_MAX];
    bool profiling;
    pid_t command;
    sigset_t signals, mask_before; /* what is waited for; the mask that the command gets */
    struct sigaction child_before, pipe_before;
};

static void print_help(void)
{
    printf(
        "usage: profilomatic run [options] [--] COMMAND [ARGUMENT...]\n\n"
        "Runs COMMAND (gunicorn, uwsgi, a script, ...) unmodified, with profiling switched on in every "
        "Python process\n"
        "under it, and prints a report to stderr when it ends. Exit status and signals are the command's.\n\n"
        "  --max-overhead SHARE  of the workers' CPU that profiling may cost, all workers together (0.02, "
        "2%%)\n"
        "  --interval SEC        finest sampling interval (0.01)\n"
        "  --granularity DETAIL  file, method or line (line)\n"
        "  --max-actions N       newly profiled actions a cycle, over all workers; 0: no cap (10)\n"
        "  --source NAME         the name of this pool of workers (the host's name)\n"
        "  --scope SCOPE         actions, or process: also time outside any action (actions)\n"
        "  -o, --output FILE     also write the profile to FILE\n"
        "  -F, --format FORMAT   of FILE: json (default), collapsed or classic\n"
        "  -q, --quiet           print no report\n"
        "  -a, --action NAME     report this action type only, or those with NAME in theirs\n"
        "  --limit N             lines shown for each action (5)\n"
        "  --help                this text\n");
}

/* ---- options ---- */

static bool take_option(struct run_options *o, int option, const char *value)
{
    double number;
    uint32_t count;
    switch (option) {
    case OPTION_MAX_OVERHEAD:
        return parse_ratio("--max-overhead", value, BUDGET_OVERHEAD_LEAST, BUDGET_OVERHEAD_MOST, &number) &&
               snprintf(o->max_overhead, sizeof o->max_overhead, "%.9g", number) > 0;
    case OPTION_INTERVAL:
        return parse_seconds("--interval", value, INTERVAL_LEAST, INTERVAL_MOST, &number) &&
               snprintf(o->interval, sizeof o->interval, "%.9g", number) > 0;
    case OPTION_GRANULARITY:
        return parse_choice("--granularity", o->granularity = value, granularities);
    case OPTION_MAX_ACTIONS:
        return parse_count("--max-actions", value, MAX_ACTIONS_MOST, &count) &&
               snprintf(o->max_actions, sizeof o->max_actions, "%u", count) > 0;
    case OPTION_SOURCE:
        o->source = value;
        if (strlen(value) <= DIRECTORY_SOURCE_MAX && *value != '\0')
            return true;
        complain("--source: a name of 1 to %d bytes", DIRECTORY_SOURCE_MAX);
        return false;
    case OPTION_SCOPE:
        return parse_choice("--scope", o->scope = value, scopes);
    case OPTION_QUIET:
        o->quiet = true;
        return true;
    case 'o':
        o->output = value;
        return true;
    case 'F':
        return parse_choice("--format", o->format = value, export_formats);
    case 'a':
    case OPTION_LIMIT:
        return selection_option(&o->shown, option, value);
    default:
        return false; /* none of these */
    }
}

/* CLI_OK with a command, or -1 for "done" (help), or CLI_USAGE. */
static int read_options(struct run_options *o, int argc, char **argv)
{
    static const struct option options[] = {{"max-overhead", required_argument, NULL, OPTION_MAX_OVERHEAD},
                                            {"interval", required_argument, NULL, OPTION_INTERVAL},
                                            {"granularity", required_argument, NULL, OPTION_GRANULARITY},
                                            {"max-actions", required_argument, NULL, OPTION_MAX_ACTIONS},
                                            {"source", required_argument, NULL, OPTION_SOURCE},
                                            {"scope", required_argument, NULL, OPTION_SCOPE},
                                            {"output", required_argument, NULL, 'o'},
                                            {"format", required_argument, NULL, 'F'},
                                            {"quiet", no_argument, NULL, OPTION_QUIET},
                                            {"action", required_argument, NULL, 'a'},
                                            {"limit", required_argument, NULL, OPTION_LIMIT},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int option;
    *o = (struct run_options){.shown.limit = TEXT_ROWS};
    /* "+": the options end where the command begins. */
    while ((option = getopt_long(argc, argv, "+:o:F:qa:h", options, NULL)) != -1) {
        if (option == 'h') {
            print_help();
            return -1;
        }
        if (option == '?' || option == ':')
            return option_error("run", option, argv, options);
        if (!take_option(o, option == 'q' ? OPTION_QUIET : option, optarg))
            return usage_error("run");
    }
    if (optind == argc) {
        complain("run: no COMMAND; write it behind the options, as in: profilomatic run -- gunicorn app:app");
        return usage_error("run");
    }
    if (o->format != NULL && o->output == NULL) {
        complain("--format goes with --output FILE");
        return usage_error("run");
    }
    o->command = argv + optind;
    return CLI_OK;
}

/* ---- the command ---- */

static void set_environment(const struct run *run)
{
    const struct run_options *o = run->options;
    if (!run->profiling) {
        setenv("PROFILOMATIC_ENABLED", "0", 1);
        return;
    }
    const struct {
        const char *name, *value;
    } variables[] = {
        {"PROFILOMATIC_ENABLED", "1"},
        {"PROFILOMATIC_RUN", "1"},
        {"PROFILOMATIC_DIR", run->directory.path},
        {"PROFILOMATIC_AGGREGATOR", run->service.program},
        {"PROFILOMATIC_SOURCE_NAME", o->source},
        {"PROFILOMATIC_MAX_OVERHEAD", o->max_overhead},
        {"PROFILOMATIC_TIME_GRANULARITY", o->interval},
        {"PROFILOMATIC_CODE_GRANULARITY", o->granularity},
        {"PROFILOMATIC_MAX_ACTIONS_PER_RUN", o->max_actions},
        {"PROFILOMATIC_SCOPE", o->scope},
    };
    for (unsigned i = 0; i < sizeof variables / sizeof *variables; i++)
        if (variables[i].value != NULL && variables[i].value[0] != '\0')
            setenv(variables[i].name, variables[i].value, 1);

    const char *before = getenv("PYTHONPATH");
    bool any = before != NULL && *before != '\0';
    char *path = NULL;
    if (asprintf(&path, "%s/profilomatic/_site:%s%s%s", run->python, run->python, any ? ":" : "",
                 any ? before : "") > 0)
        setenv("PYTHONPATH", path, 1);
    free(path);
}

/* In the child of the fork: become the command, or write why not to `failed`. */
static void become_command(const struct run *run, int failed)
{
    set_environment(run);
    sigaction(SIGCHLD, &run->child_before, NULL);
    sigaction(SIGPIPE, &run->pipe_before, NULL);
    sigprocmask(SIG_SETMASK, &run->mask_before, NULL);
    execvp(run->options->command[0], run->options->command);
    int error = errno;
    ssize_t ignored = write(failed, &error, sizeof error);
    (void)ignored;
    _exit(127);
}

/* 0, or the shell's exit status for a command that cannot be run (told). */
static int start_command(struct run *run)
{
    int pipe_fds[2], error = 0;
    if (pipe2(pipe_fds, O_CLOEXEC) != 0 || (run->command = fork()) < 0) {
        complain("cannot start %s: %s", run->options->command[0], strerror(errno));
        return 126;
    }
    if (run->command == 0)
        become_command(run, pipe_fds[1]);
    close(pipe_fds[1]);
    ssize_t n;
    while ((n = read(pipe_fds[0], &error, sizeof error)) < 0 && errno == EINTR) {
    }
    close(pipe_fds[0]);
    if (n <= 0)
        return 0; /* the end of exec closed the pipe */
    waitpid(run->command, NULL, 0);
    complain("cannot run %s: %s", run->options->command[0], strerror(error));
    return error == ENOENT ? 127 : 126;
}

/* Reap; true when the command has ended. */
static bool reap(struct run *run, int *command_status)
{
    int status;
    pid_t pid;
    bool ended = false;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == run->command) {
            *command_status = status;
            ended = true;
        } else if (pid == run->service.pid) {
            service_ended(&run->service, status);
        }
    }
    return ended;
}

static int await_command(struct run *run)
{
    int status = 0;
    siginfo_t info;
    for (;;) {
        int signal = sigwaitinfo(&run->signals, &info);
        if (signal == SIGCHLD) {
            if (reap(run, &status))
                return status;
        } else if (signal > 0 && info.si_code <= 0) {
            /* Sent by a process, to us alone. What a terminal sends reaches the command by itself. */
            kill(run->command, signal);
        }
    }
}

/* ---- before and after ---- */

static void catch_signals(struct run *run)
{
    static const int handed_on[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCHLD};
    struct sigaction standard = {.sa_handler = SIG_DFL}, ignore = {.sa_handler = SIG_IGN};
    sigemptyset(&run->signals);
    for (unsigned i = 0; i < sizeof handed_on / sizeof *handed_on; i++)
        sigaddset(&run->signals, handed_on[i]);
    sigprocmask(SIG_BLOCK, &run->signals, &run->mask_before);
    /* Whoever started us may ignore SIGCHLD, and then nobody could be waited for. */
    sigaction(SIGCHLD, &standard, &run->child_before);
    /* A closed stderr must not keep us from cleaning up. */
    sigaction(SIGPIPE, &ignore, &run->pipe_before);
}

/* The operator's own word, which Python processes heed too: nothing is profiled. */
static bool forbidden(void)
{
    static const char *const off[] = {"0", "false", "no", "off"};
    const char *value = getenv("PROFILOMATIC_ENABLED");
    for (unsigned i = 0; value != NULL && i < sizeof off / sizeof *off; i++)
        if (strcasecmp(value, off[i]) == 0)
            return true;
    return false;
}

/* Hours may pass before the profile is written, so what stands against it is said at once. */
static void check_output(const char *path)
{
    char folder[PLACES_PATH_MAX];
    struct stat st;
    int error = 0;
    if (strcmp(path, "-") == 0)
        return;
    if (stat(path, &st) == 0) {
        error = S_ISDIR(st.st_mode) ? EISDIR : access(path, W_OK) != 0 ? errno : 0;
    } else {
        const char *slash = strrchr(path, '/');
        snprintf(folder, sizeof folder, "%.*s", slash == NULL ? 1 : (int)(slash - path) + 1,
                 slash == NULL ? "." : path);
        error = access(folder, W_OK | X_OK) != 0 ? errno : 0;
    }
    if (error != 0)
        complain("--output: as it is now, %s cannot be written: %s. The command runs all the same", path,
                 strerror(error));
}

static void switch_on(struct run *run)
{
    if (forbidden()) {
        complain("profiling is off: PROFILOMATIC_ENABLED=%s. The command runs without it",
                 getenv("PROFILOMATIC_ENABLED"));
        return;
    }
    if (run->options->output != NULL)
        check_output(run->options->output);
    int rc = places_python(run->python);
    if (rc == 0)
        rc = private_directory_make(&run->directory);
    if (rc == 0)
        rc = service_start(&run->service, run->directory.path);
    run->profiling = rc == 0;
    if (rc != 0) {
        complain("profiling is off: %s. The command runs without it", fault_text());
        private_directory_remove(&run->directory);
    }
}

/* Has any worker begun an action? Its pool's folder tells. */
static bool anything_attached(const char *directory)
{
    uid_t uid;
    char source[DIRECTORY_SOURCE_MAX + 1];
    bool found = false;
    DIR *folder = opendir(directory);
    const struct dirent *entry;
    while (folder != NULL && !found && (entry = readdir(folder)) != NULL)
        found = directory_parse_pool(entry->d_name, &uid, source) == 0;
    if (folder != NULL)
        closedir(folder);
    return found;
}

static void show(const struct run_options *o, json_t *report)
{
    if (o->output != NULL) {
        const char *format = o->format == NULL ? export_formats[0] : o->format;
        long written = export_write(report, format, COLLAPSED_SAMPLES, o->output);
        if (written < 0)
            complain("the profile is not saved: %s", fault_text());
        else if (written == 0)
            complain("%s is empty: nothing was profiled", o->output);
    }
    if (o->quiet)
        return;
    if (selection_filter(report, o->shown.action, o->shown.limit) == 0 && o->shown.action != NULL)
        complain("no action of type \"%s\" was seen", o->shown.action);
    fputc('\n', stderr);
    text_report(stderr, report, o->shown.action == NULL ? TEXT_ACTIONS : SIZE_MAX);
}

static void tell_nothing(const struct run_options *o)
{
    bool everything = o->scope != NULL && strcmp(o->scope, "process") == 0;
    complain("nothing to report%s%s: no action began in a Python process under the command%s",
             o->output == NULL ? "" : " or to write to ", o->output == NULL ? "" : o->output,
             everything ? "" : " (--scope process profiles what runs outside any action)");
}

static void tell_survivors(const struct run *run)
{
    struct survivors left = survivors_find(run->directory.path, run->python);
    if (left.count != 0)
        complain(
            "the command has ended, but %u process%s of it (%d%s) still run%s, no longer profiled: a server "
            "must stay in the foreground",
            left.count, left.count == 1 ? "" : "es", (int)left.first, left.count == 1 ? "" : ", ...",
            left.count == 1 ? "s" : "");
}

static void switch_off(struct run *run, bool ran)
{
    const struct run_options *o = run->options;
    bool wanted = ran && (!o->quiet || o->output != NULL);
    sigset_t interrupts;
    if (!run->profiling)
        return;
    sigemptyset(&interrupts);
    sigaddset(&interrupts, SIGTERM);
    sigaddset(&interrupts, SIGINT);
    sigaddset(&interrupts, SIGHUP);
    sigaddset(&interrupts, SIGQUIT);
    bool attached = anything_attached(run->directory.path);
    json_t *report = service_stop(&run->service, &interrupts, wanted && attached);
    tell_survivors(run);
    if (report != NULL)
        show(o, report);
    else if (wanted && !attached)
        tell_nothing(o);
    json_decref(report);
    private_directory_remove(&run->directory);
}

/* End as the command ended: with its status, or of the same signal (without a second core file). */
static int end_like(int status)
{
    if (!WIFSIGNALED(status))
        return WEXITSTATUS(status);
    struct rlimit none = {0, 0};
    sigset_t one;
    fflush(stderr);
    setrlimit(RLIMIT_CORE, &none);
    signal(WTERMSIG(status), SIG_DFL);
    sigemptyset(&one);
    sigaddset(&one, WTERMSIG(status));
    raise(WTERMSIG(status));
    sigprocmask(SIG_UNBLOCK, &one, NULL);
    return 128 + WTERMSIG(status);
}

int verb_run(int argc, char **argv)
{
    struct run_options options;
    int rc = read_options(&options, argc, argv);
    if (rc != CLI_OK)
        return rc < 0 ? CLI_OK : rc;

    struct run run = {.options = &options};
    catch_signals(&run);
    switch_on(&run);
    int failed = start_command(&run);
    int status = failed == 0 ? await_command(&run) : 0;
    switch_off(&run, failed == 0);
    return failed != 0 ? failed : end_like(status);
}
