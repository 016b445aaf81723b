/*
 * Torture by SIGKILL: many writers at once and the real aggregator, both killed again and again, at random
 * instants and at each test point in turn; at the end what was merged is, to the last record, what was
 * committed.
 *
 *     kill_driver --aggregator FILE [--seconds S] [--kills N] [--writers N] [--seed N] [--label WORKER-LABEL]
 *                 [--aggregator-label LABEL] [--pause LABEL:US]
 *     kill_driver --aggregator FILE --list      only says at which test points it kills
 *
 * It goes on for S seconds, and until N writers and N aggregators were killed and each test point killed one
 * of its side at least once. With a label given only that one is used. Exit status: 0 nothing lost, torn or
 * doubled; 1 something was; 2 the test itself failed (an aggregator that crashed, a test point that was never
 * reached).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <urcu.h>

#include "aggregator/checkpoint.h"
#include "aggregator/destination/destination.h"
#include "aggregator/guard.h"
#include "aggregator/log.h"
#include "shm/clock.h"
#include "shm/fault.h"
#include "shm/testpoint.h"
#include "tests/torture/kill.h"

enum {
    WRITERS_MOST = 64,
    LABELS_MOST = 64,
    PAST_WINDOWS = WINDOWS_MOST, /* so that each window that is closed makes two become one */
    PATIENCE_MS = 300,           /* for a test point to be reached */
    FIRST_PATIENCE_MS = 10000,   /* the first time, and for the end of a window, which comes after a second */
    WINDOW_EVERY_MS = 11000,     /* a window must be as old as that */
    LAST_MS = 20000,             /* for the last aggregator to end by itself */
};
#define MS UINT64_C(1000000)

struct label {
    char name[64];
    unsigned hits;
    uint64_t next_try_ns; /* not before */
};

struct labels {
    struct label label[LABELS_MOST];
    unsigned count, next;
};

struct victim {
    pid_t pid;
    uint64_t kill_at_ns;
    struct label *label; /* the test point it should die at */
    bool killed;         /* by us */
};

static struct {
    const char *aggregator, *label, *aggregator_label, *pause;
    bool list;
    double seconds;
    unsigned writers, kills;
    uint64_t seed;
} options = {.seconds = 30, .writers = 8, .seed = 1};

static struct shared *shared;
static char directory[DIRECTORY_PATH_MAX], pool_path[DIRECTORY_PATH_MAX], log_path[DIRECTORY_PATH_MAX],
    asked_path[DIRECTORY_PATH_MAX], report_path[DIRECTORY_PATH_MAX];
static const char *pool_name;
static struct labels of_writers, of_aggregator;
static struct victim writer[WRITERS_MOST], aggregator;
static unsigned writers_killed, aggregators_killed;
static bool crashed;

static _Noreturn void fail(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    exit(2);
}

static long upto(long n)
{
    return lrand48() % n;
}

/* ---- labels -------------------------------------------------------------------------------------------- */

static void add_label(const char *name, void *context)
{
    struct labels *labels = context;
    for (unsigned i = 0; i < labels->count; i++)
        if (strcmp(labels->label[i].name, name) == 0)
            return;
    if (labels->count == LABELS_MOST)
        fail("too many labels");
    snprintf(labels->label[labels->count++].name, sizeof labels->label[0].name, "%s", name);
}

/* Test points of functions that a writer never calls: they are in this program because of the library. */
static bool is_writers(const char *name)
{
    static const char *const prefixes[] = {"segment-", "lane-",   "definition-",
                                           "counter-", "action-", "budget-"};
    if (strcmp(name, "segment-unlinked") == 0)
        return false;
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

/* Test points that no run of this program comes to: tests/torture/kill_lives kills there. */
static bool is_of_lives(const char *name)
{
    static const char *const prefixes[] = {"alive-", "folder-", "control-removed", "request-",
                                           "pool-",  "spool-",  "batch-",          "lock-removed",
                                           "guest-", "word-",   "checkpoint-aside"};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

static void add_writers_label(const char *name, void *context)
{
    if (is_writers(name))
        add_label(name, context);
}

static void ask_for_labels(void)
{
    char command[DIRECTORY_PATH_MAX + 64], line[64];
    testpoint_list(add_writers_label, &of_writers);
    snprintf(command, sizeof command, "POM_TESTPOINT=list '%s'", options.aggregator);
    FILE *list = popen(command, "r");
    while (list != NULL && fgets(line, sizeof line, list) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (!is_writers(line) && !is_of_lives(line))
            add_label(line, &of_aggregator);
    }
    /* The pieces of a chain behind its first. */
    add_label("piece-committed:2", &of_aggregator);
    add_label("piece-committed:3", &of_aggregator);
    if (list == NULL || pclose(list) != 0 || of_writers.count == 0 || of_aggregator.count == 0)
        fail("no test points in the programs: build them with `scons testpoints=1`");
}

static bool is_about(const struct label *label, const char *prefix)
{
    return strncmp(label->name, prefix, strlen(prefix)) == 0;
}

/* Those that were hit least come first; first of all those about
 * the pages, which are made but once, and the close of a window, before which none is removed. */
/* A label with its number, "lane-tail-stored:2", is what it says; to one without comes a number. */
static struct label *only_label(struct labels *labels, const char *only)
{
    add_label(only, labels);
    for (unsigned i = 0; i < labels->count; i++)
        if (strcmp(labels->label[i].name, only) == 0)
            return &labels->label[i];
    return NULL;
}

static struct label *next_label(struct labels *labels, const char *only, uint64_t now)
{
    struct label *best = NULL;
    if (only != NULL)
        return only_label(labels, only);
    for (unsigned i = 0; i < labels->count; i++) {
        struct label *label = &labels->label[(labels->next + i) % labels->count];
        if (now < label->next_try_ns)
            continue;
        if ((is_about(label, "page-") || is_about(label, "window-closed")) && label->hits == 0)
            return label;
        if (!is_about(label, "page-") && (best == NULL || label->hits < best->hits))
            best = label;
    }
    labels->next = (labels->next + 1) % labels->count;
    return best;
}

static const struct label *not_hit(const struct labels *labels)
{
    for (unsigned i = 0; i < labels->count; i++)
        if (labels->label[i].hits == 0)
            return &labels->label[i];
    return NULL;
}

/* ---- the pool ------------------------------------------------------------------------------------------ */

/* A pool with as many closed windows as are kept, whose open one is about to be closed. */
static void give_a_past(void)
{
    static struct config config;
    struct pool *pool;
    if (pool_open(&pool, directory, pool_name, &config) != 0)
        fail(fault_text());
    uint64_t now = clock_monotonic_ns() - (PAST_WINDOWS + 2) * POOL_IDLE_WINDOW_NS;
    pool->merge.open->start_ns = pool->cycle_at_ns = pool->accounted_at_ns = now;
    for (int i = 0; i < PAST_WINDOWS; i++) {
        now += POOL_IDLE_WINDOW_NS;
        pool_account(pool, 0, now);
        pool_cycle(pool, now);
        if (checkpoint_write(pool) != 0)
            fail(fault_text());
    }
    pool_close(pool);
    /* The aggregator shall have pages to make. */
    static const char *const pages[] = {"budget", "rates"};
    for (int i = 0; i < 2; i++) {
        char path[DIRECTORY_PATH_MAX];
        if (directory_join(path, pool_path, pages[i]) != 0 || unlink(path) != 0)
            fail(path);
    }
}

static void make_pool(void)
{
    snprintf(directory, sizeof directory, "/dev/shm/profilomatic-kill-XXXXXX");
    if (mkdtemp(directory) == NULL || directory_pool(pool_path, directory, geteuid(), "kill") != 0 ||
        directory_make_pool(directory, pool_path) != 0 || directory_join(log_path, directory, "log") != 0 ||
        directory_join(report_path, directory, "report.json") != 0 ||
        directory_join(asked_path, pool_path, "requests/lines.json") != 0)
        fail("cannot make a directory");
    pool_name = strrchr(pool_path, '/') + 1;
    give_a_past();
}

static void remove_tree(const char *path)
{
    DIR *folder = opendir(path);
    for (struct dirent *e; folder != NULL && (e = readdir(folder)) != NULL;) {
        char below[DIRECTORY_PATH_MAX];
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
            directory_join(below, path, e->d_name) == 0 && unlink(below) != 0)
            remove_tree(below);
    }
    if (folder != NULL)
        closedir(folder);
    rmdir(path);
}

/* Lines for each root action cost much, so they are asked for only where it is about them. */
static void ask_for_lines(bool wanted)
{
    char text[DIRECTORY_PATH_MAX + 64];
    if (!wanted) {
        unlink(asked_path);
        return;
    }
    snprintf(text, sizeof text, "{\"kind\":\"file\",\"form\":\"classic\",\"path\":\"%s/lines\"}", directory);
    int fd = open(asked_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        fail(asked_path);
    close(fd);
}

/* ---- processes ----------------------------------------------------------------------------------------- */

static void start_writer(struct victim *victim, uint64_t now)
{
    /* Every third one dies by our hand only. */
    struct label *label =
        options.label != NULL || upto(3) != 0 ? next_label(&of_writers, options.label, now) : NULL;
    unsigned n = 1 + (unsigned)(upto(2) * upto(30));
    uint64_t seed = (uint64_t)lrand48() << 16 ^ now;
    *victim =
        (struct victim){.label = label, .kill_at_ns = now + (uint64_t)(20 + upto(upto(4) ? 400 : 2500)) * MS};
    victim->pid = fork();
    if (victim->pid < 0)
        fail("fork");
    if (victim->pid == 0)
        writer_run(shared, pool_path, label != NULL ? label->name : NULL, n, seed);
}

/* It ends with us, and what it says before it opens its log goes there too. */
static void become_aggregator(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd >= 0)
        dup2(fd, STDERR_FILENO);
}

static void start_aggregator(uint64_t now)
{
    bool first = not_hit(&of_aggregator) != NULL;
    struct label *label = options.aggregator_label != NULL || first || upto(3) != 0
                              ? next_label(&of_aggregator, options.aggregator_label, now)
                              : NULL;
    bool patient = label != NULL && (label->hits == 0 || is_about(label, "window-"));
    long life_ms = patient ? FIRST_PATIENCE_MS : label != NULL ? PATIENCE_MS : 5 + upto(upto(3) ? 60 : 400);
    unsigned n = 1 + (unsigned)(upto(2) * upto(4));
    char order[96], times[16];
    snprintf(times, sizeof times, ":%u", n);
    if (label != NULL) {
        ask_for_lines(is_about(label, "destination-"));
        if (is_about(label, "window-") && label->hits != 0)
            label->next_try_ns = now + WINDOW_EVERY_MS * MS;
    }
    aggregator = (struct victim){.label = label, .kill_at_ns = now + (uint64_t)life_ms * MS};
    aggregator.pid = fork();
    if (aggregator.pid < 0)
        fail("fork");
    if (aggregator.pid != 0)
        return;
    become_aggregator();
    if (label != NULL) {
        bool numbered = strchr(label->name, ':') != NULL;
        snprintf(order, sizeof order, "%s%s", label->name, numbered || label->hits == 0 ? "" : times);
        setenv("POM_TESTPOINT", order, 1);
    }
    if (options.pause != NULL)
        setenv("POM_TESTPOINT_PAUSE", options.pause, 1);
    execl(options.aggregator, options.aggregator, "--directory", directory, "--log", log_path, (char *)NULL);
    _exit(127);
}

/* A death that nobody ordered is a crash. */
static void note_death(struct victim *victim, struct labels *labels, unsigned *killed, int status,
                       const char *what)
{
    (void)labels;
    bool by_signal = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (by_signal && !victim->killed && victim->label != NULL)
        victim->label->hits++;
    else if (!by_signal && !(WIFEXITED(status) && WEXITSTATUS(status) == 0)) {
        printf("%s ended by itself: status %#x\n", what, (unsigned)status);
        crashed = true;
    }
    *killed += by_signal;
}

static void kill_late(struct victim *victim, uint64_t now)
{
    if (victim->pid != 0 && !victim->killed && now >= victim->kill_at_ns) {
        victim->killed = true;
        kill(victim->pid, SIGKILL);
    }
}

static void reap(void)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == aggregator.pid) {
            note_death(&aggregator, &of_aggregator, &aggregators_killed, status, "the aggregator");
            aggregator.pid = 0;
        }
        for (unsigned i = 0; i < options.writers; i++)
            if (pid == writer[i].pid) {
                note_death(&writer[i], &of_writers, &writers_killed, status, "a writer");
                writer[i].pid = 0;
                lives_settle(shared, pid);
            }
    }
}

static bool enough(uint64_t passed_ns)
{
    if ((double)passed_ns / 1e9 < options.seconds)
        return false;
    bool all = options.label != NULL || options.aggregator_label != NULL ||
               (not_hit(&of_writers) == NULL && not_hit(&of_aggregator) == NULL);
    return (all && writers_killed >= options.kills && aggregators_killed >= options.kills) ||
           (double)passed_ns / 1e9 > options.seconds * 4 + 30;
}

static void torture(void)
{
    uint64_t began = clock_monotonic_ns(), now = began;
    for (; !crashed && !enough(now - began) && shared->lives < LIVES_MOST - 2 * WRITERS_MOST;
         now = clock_monotonic_ns()) {
        if (aggregator.pid == 0)
            start_aggregator(now);
        kill_late(&aggregator, now);
        for (unsigned i = 0; i < options.writers; i++) {
            if (writer[i].pid == 0)
                start_writer(&writer[i], now);
            kill_late(&writer[i], now);
        }
        reap();
        lives_map(shared);
        usleep(500);
    }
    for (unsigned i = 0; i < options.writers; i++)
        writer[i].kill_at_ns = 0;
    aggregator.kill_at_ns = 0;
    for (bool any = true; any;) {
        any = aggregator.pid != 0;
        kill_late(&aggregator, now);
        for (unsigned i = 0; i < options.writers; i++) {
            kill_late(&writer[i], now);
            any |= writer[i].pid != 0;
        }
        reap();
        usleep(500);
    }
    printf("%u writers and %u aggregators killed in %.0f s, %u segments\n", writers_killed,
           aggregators_killed, (double)(now - began) / 1e9, shared->lives);
}

/* One more aggregator, which is let live and then told to end: it drains all there is. */
static void finish(void)
{
    int status = 0;
    ask_for_lines(false);
    pid_t pid = fork();
    if (pid < 0)
        fail("fork");
    if (pid == 0) {
        become_aggregator();
        execl(options.aggregator, options.aggregator, "--directory", directory, "--log", log_path, "--once",
              "--final-report", report_path, (char *)NULL);
        _exit(127);
    }
    for (int waited = 0; waited < LAST_MS; waited += 5) {
        if (waitpid(pid, &status, WNOHANG) == pid) {
            if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
                printf("the last aggregator ended with status %#x\n", (unsigned)status);
                crashed = true;
            }
            return;
        }
        usleep(5000);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    printf("the last aggregator does not end\n");
    crashed = true;
}

/* Lines in its log that no honest death explains. */
static unsigned complaints(void)
{
    static const char *const words[] = {"afresh",  "damaged",       "breaks the rules",
                                        "is lost", "no checkpoint", "cannot be served"};
    char line[1024];
    unsigned count = 0;
    FILE *log = fopen(log_path, "r");
    while (log != NULL && fgets(line, sizeof line, log) != NULL)
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (strstr(line, words[i]) != NULL && ++count <= 5)
                printf("log: %s", line);
    if (log != NULL)
        fclose(log);
    return count;
}

static void tell_hits(const struct labels *labels, const char *side)
{
    printf("%s killed at:", side);
    for (unsigned i = 0; i < labels->count; i++)
        printf(" %s %u%s", labels->label[i].name, labels->label[i].hits, i + 1 < labels->count ? "," : "\n");
}

static void print_labels(const struct labels *labels)
{
    for (unsigned i = 0; i < labels->count; i++)
        puts(labels->label[i].name);
}

static bool parse(int argc, char **argv)
{
    static const struct option long_options[] = {
        {"aggregator", required_argument, NULL, 'a'},
        {"seconds", required_argument, NULL, 's'},
        {"kills", required_argument, NULL, 'k'},
        {"writers", required_argument, NULL, 'w'},
        {"seed", required_argument, NULL, 'r'},
        {"label", required_argument, NULL, 'l'},
        {"aggregator-label", required_argument, NULL, 'L'},
        {"pause", required_argument, NULL, 'p'},
        {"list", no_argument, NULL, 'i'},
        {0},
    };
    for (int o; (o = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        switch (o) {
        case 'a':
            options.aggregator = optarg;
            break;
        case 's':
            options.seconds = atof(optarg);
            break;
        case 'k':
            options.kills = (unsigned)atoi(optarg);
            break;
        case 'w':
            options.writers = (unsigned)atoi(optarg);
            break;
        case 'r':
            options.seed = strtoull(optarg, NULL, 10);
            break;
        case 'l':
            options.label = optarg;
            break;
        case 'L':
            options.aggregator_label = optarg;
            break;
        case 'p':
            options.pause = optarg;
            break;
        case 'i':
            options.list = true;
            break;
        default:
            return false;
        }
    }
    return options.aggregator != NULL && options.writers >= 1 && options.writers <= WRITERS_MOST;
}

int main(int argc, char **argv)
{
    if (!parse(argc, argv)) {
        fprintf(stderr, "kill_driver: the options stand at the top of kill_driver.c\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    srand48((long)options.seed);
    rcu_init();
    rcu_register_thread();
    guard_install();
    destinations_start();
    log_open("/dev/null");
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        fail("mmap");
    ask_for_labels();
    if (options.list) {
        print_labels(&of_writers);
        print_labels(&of_aggregator);
        return 0;
    }
    make_pool();
    torture();
    finish();
    unsigned wrong = complaints() + verify(shared, directory, pool_name, report_path);
    if (options.label == NULL)
        tell_hits(&of_writers, "writers");
    if (options.aggregator_label == NULL)
        tell_hits(&of_aggregator, "aggregators");
    bool missed = options.label == NULL && options.aggregator_label == NULL &&
                  (not_hit(&of_writers) != NULL || not_hit(&of_aggregator) != NULL);
    if (missed)
        printf("not every test point was reached\n");
    if (wrong == 0 && !crashed && !missed)
        remove_tree(directory);
    else
        printf("left to look at: %s\n", directory);
    return wrong != 0 ? 1 : crashed || missed ? 2 : 0;
}
