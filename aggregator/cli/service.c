/* The private aggregator: see service.h. */
#include "aggregator/cli/service.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "aggregator/cli/cli.h"
#include "aggregator/cli/selection.h"
#include "shm/clock.h"
#include "shm/fault.h"

enum {
    STOP_SECONDS = 10,
    LISTEN_MS = 1000,
};

/* In the child of the fork. `once`: read what is there, report, end. */
static void become_service(const struct service *service, pid_t parent, bool once)
{
    char log[DIRECTORY_PATH_MAX], errors[DIRECTORY_PATH_MAX];
    sigset_t none;
    if (directory_join(log, service->directory, DIRECTORY_LOG) != 0 ||
        directory_join(errors, service->directory, "aggregator.stderr") != 0)
        _exit(127);
    /* A session of its own: a terminal's Ctrl-C is the command's. Should `run` be killed, it ends too. */
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(0);
    signal(SIGCHLD, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int in = open("/dev/null", O_RDWR), out = open(errors, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(in, STDIN_FILENO);
    dup2(out >= 0 ? out : in, STDOUT_FILENO);
    dup2(out >= 0 ? out : in, STDERR_FILENO);
    closefrom(STDERR_FILENO + 1); /* a listener or a pipe of whoever started us is not to be held open */
    const char *arguments[] = {service->program, "--directory",   service->directory,     "--log", log,
                               "--final-report", service->report, once ? "--once" : NULL, NULL};
    execv(service->program, (char *const *)(uintptr_t)arguments);
    fprintf(stderr, "cannot run %s: %s\n", service->program, strerror(errno));
    fflush(stderr);
    _exit(127);
}

static int launch(struct service *service, bool once)
{
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        return fault(errno, "cannot start %s", service->program);
    if (pid == 0)
        become_service(service, parent, once);
    service->pid = pid;
    return 0;
}

/* The last line that it wrote to stderr, if any. */
static bool last_words(const struct service *service, char *words, size_t bytes)
{
    char path[DIRECTORY_PATH_MAX], line[512];
    bool any = false;
    FILE *errors =
        directory_join(path, service->directory, "aggregator.stderr") == 0 ? fopen(path, "re") : NULL;
    while (errors != NULL && fgets(line, sizeof line, errors) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        snprintf(words, bytes, "%s", line);
        any = true;
    }
    if (errors != NULL)
        fclose(errors);
    return any;
}

/* So that the first workers find it at their first action; without it they profile from a moment later on. */
static int await_socket(struct service *service)
{
    char path[DIRECTORY_PATH_MAX];
    struct timespec pause = {.tv_nsec = 2000000};
    int rc = directory_join(path, service->directory, DIRECTORY_CONTROL);
    if (rc != 0)
        return rc;

    for (int waited_ms = 0; waited_ms < LISTEN_MS && access(path, F_OK) != 0; waited_ms += 2) {
        int status;
        if (waitpid(service->pid, &status, WNOHANG) != 0) {
            char words[512] = "it said nothing";
            service->pid = 0;
            last_words(service, words, sizeof words);
            fault(0, "%s ended at once (status %d): %s", service->program, WEXITSTATUS(status), words);
            return -EIO;
        }
        nanosleep(&pause, NULL);
    }
    return 0;
}

int service_start(struct service *service, const char *directory)
{
    *service = (struct service){0};
    if (strlen(directory) >= sizeof service->directory)
        return fault(ENAMETOOLONG, "%s", directory);

    strcpy(service->directory, directory);
    int rc = places_aggregator(service->program);
    if (rc == 0)
        rc = directory_join(service->report, directory, "final-report.json");
    if (rc == 0)
        rc = launch(service, false);

    return rc == 0 ? await_socket(service) : rc;
}

static void tell_errors(const struct service *service)
{
    char words[512];
    if (last_words(service, words, sizeof words))
        complain("the aggregator's last words: %s", words);
}

static void tell_end(const struct service *service, int status, const char *then)
{
    if (WIFSIGNALED(status))
        complain("the aggregator was killed by signal %d; %s", WTERMSIG(status), then);
    else
        complain("the aggregator ended with status %d; %s", WEXITSTATUS(status), then);
    tell_errors(service);
}

void service_ended(struct service *service, int status)
{
    uint64_t now = clock_monotonic_ns(), *oldest = &service->started_ns[service->starts % SERVICE_STARTS_MAX];
    service->pid = 0;
    service->died = true;
    if (service->starts >= SERVICE_STARTS_MAX && now - *oldest < SERVICE_STARTS_SECONDS * NS_PER_SECOND) {
        tell_end(service, status,
                 "not started again: it died too often. The command runs on without profiling");
        return;
    }
    *oldest = now;
    service->starts++;
    tell_end(service, status, "started again");
    if (launch(service, false) != 0)
        complain("%s", fault_text());
}

/*
 * Wait for its end. False: it had to be killed, because of a signal or of the time. A signal that comes right
 * at the start is the second of a pair (one to us, one to our group), as `timeout` sends them: no impatience.
 */
static bool await_end(struct service *service, const sigset_t *interrupts)
{
    uint64_t deadline = clock_monotonic_ns() + STOP_SECONDS * NS_PER_SECOND;
    sigset_t set = *interrupts;
    sigaddset(&set, SIGCHLD);
    for (;;) {
        int status;
        pid_t pid = waitpid(service->pid, &status, WNOHANG);
        if (pid == service->pid || (pid < 0 && errno != EINTR)) {
            service->pid = 0;
            return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
        }
        uint64_t now = clock_monotonic_ns(), left = now < deadline ? deadline - now : 0;
        struct timespec timeout = {.tv_sec = (time_t)(left / NS_PER_SECOND),
                                   .tv_nsec = (long)(left % NS_PER_SECOND)};
        int signal = left == 0 ? -1 : sigtimedwait(&set, NULL, &timeout);
        bool early = left > (STOP_SECONDS - 1) * NS_PER_SECOND;
        if (signal == SIGCHLD || (signal < 0 && left != 0) || (signal > 0 && early))
            continue;
        complain("the aggregator did not end %s; killed",
                 signal < 0 ? "in 10 s" : "before the next signal came");
        kill(service->pid, SIGKILL);
        waitpid(service->pid, &status, 0);
        service->pid = 0;
        errno = signal < 0 ? ETIMEDOUT : EINTR;
        return false;
    }
}

static json_t *read_report(const struct service *service)
{
    json_t *report = NULL;
    return selection_read_file(service->report, &report) == 0 ? report : NULL;
}

json_t *service_stop(struct service *service, const sigset_t *interrupts, bool wanted)
{
    json_t *report = NULL;
    if (service->pid != 0) {
        kill(service->pid, SIGTERM);
        errno = 0;
        bool orderly = await_end(service, interrupts);
        if (!orderly && errno == EINTR)
            return NULL;
        report = wanted ? read_report(service) : NULL;
    }
    /* It died, or could not finish: what it had merged and what lies in the segments is still there. */
    if (wanted && report == NULL && launch(service, true) == 0 &&
        (await_end(service, interrupts) || errno != EINTR))
        report = read_report(service);
    if (wanted && report == NULL) {
        complain("no report: %s", fault_text());
        tell_errors(service);
    }
    return report;
}
