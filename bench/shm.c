/*
 * What shared memory costs, each figure beside its bar.
 *
 *     build/bench/shm [--seconds N] [--workers N] [put|attach|load|recovery…]
 *
 *   put        a record of 32 bytes into a lane, beside a memcpy of it
 *   attach     making, mapping and announcing a segment
 *   load       the real aggregator with 1,000 attached workers at 100 Hz each: CPU, resident memory
 *   recovery   the aggregator is killed under that, and a new one started: until it answers and has all
 *
 * What a merged sample costs is bench/drain's. The workers of `load` are segments that a few processes own
 * and write to as samplers do: an action of ten samples at a time, of one of 256 stacks, 32 frames deep. The
 * CPU of the aggregator is read from its schedstat, from outside, after the first seconds. Prints `ok` or
 * `MISSED` behind each bar; status 1 if one was missed.
 */
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/unit/no_check.h"
#include "tests/unit/synthetic.h"

enum {
    WRITERS = 4, /* processes */
    WORKERS_MOST = 4096,
    RATE_HZ = 100,
    BURSTS_HZ = 10, /* how often a writer comes round to each of its workers */
    AN_ACTION = RATE_HZ / BURSTS_HZ,
    STACKS = 256,
    DEPTH = 32,
    PUTS = 20000000,
    ATTACHES = 100,
};

static int workers = 1000;
static double seconds = 20;
static bool missed;
static struct synthetic home;

static void tell(const char *what, double value, const char *unit, double bar, const char *beside)
{
    bool ok = value <= bar;
    missed |= !ok;
    printf("%-44s %8.2f %-8s bar %6.0f  %s%s%s\n", what, value, unit, bar, ok ? "ok" : "MISSED",
           beside[0] != '\0' ? "   " : "", beside);
    fflush(stdout);
}

static double since(uint64_t began_ns)
{
    return (double)(clock_monotonic_ns() - began_ns) / 1e9;
}

/* ---- put ----------------------------------------------------------------------------------------------- */

struct small_record {
    struct record_header header;
    uint64_t body[3];
};

static void bench_put(void)
{
    enum { LANE_BYTES = 128 << 10 };
    static struct lane_tail tail;
    static struct lane_head head;
    static _Alignas(64) uint8_t data[LANE_BYTES], copy[LANE_BYTES];
    struct lane lane = {.tail = &tail, .head = &head, .data = data, .size = LANE_BYTES};
    struct small_record record = {.header = {sizeof record, RECORD_SAMPLE, 0}};
    double put = 1e9, copied = 1e9;
    for (int run = 0; run < 5; run++) {
        uint64_t began = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
        for (int i = 0; i < PUTS; i++) {
            record.body[0] = (uint64_t)i;
            if (!lane_put(&lane, &record)) {
                atomic_store_explicit(&head.head, atomic_load_explicit(&tail.tail, memory_order_relaxed),
                                      memory_order_relaxed);
                lane_put(&lane, &record);
            }
        }
        uint64_t between = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
        for (int i = 0; i < PUTS; i++) {
            record.body[0] = (uint64_t)i;
            memcpy(copy + ((size_t)i * sizeof record & (LANE_BYTES - 1)), &record, sizeof record);
            __asm__ volatile("" ::: "memory");
        }
        uint64_t end = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
        put = (double)(between - began) / PUTS < put ? (double)(between - began) / PUTS : put;
        copied = (double)(end - between) / PUTS < copied ? (double)(end - between) / PUTS : copied;
    }
    char beside[64];
    snprintf(beside, sizeof beside, "memcpy of it: %.2f ns (%.1f x)", copied, put / copied);
    tell("put a record of 32 bytes", put, "ns", 10, beside);
}

/* ---- attach -------------------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static void bench_attach(void)
{
    double took[ATTACHES];
    synthetic_directory(&home);
    for (int i = 0; i < ATTACHES; i++) {
        uint64_t began = clock_monotonic_ns();
        synthetic_attach(&home);
        took[i] = since(began) * 1e3;
        segment_unmap(&home.segment);
    }
    synthetic_end(&home);
    qsort(took, ATTACHES, sizeof *took, ascending);
    char beside[64];
    snprintf(beside, sizeof beside, "best %.2f, worst %.2f ms of %d", took[0], took[ATTACHES - 1], ATTACHES);
    tell("attach: make and announce a segment, median", took[ATTACHES / 2], "ms", 2, beside);
}

/* ---- simulated writers --------------------------------------------------------------------------------- */

static void define(struct synthetic *s, uint32_t stack[STACKS])
{
    synthetic_type(s, 0, "(other)");
    synthetic_type(s, 1, "/cart");
    synthetic_stacks(s, DEPTH, STACKS, stack);
}

/* One action of ten samples; what finds no room is counted by the lane. */
static void burst(struct synthetic *s, const uint32_t stack[STACKS])
{
    uint64_t now = clock_monotonic_ns();
    struct record_begin begin = {.header = {sizeof begin, RECORD_BEGIN, 0},
                                 .time_ns = now,
                                 .action_serial = ++s->serial,
                                 .thread = 1,
                                 .type = 1,
                                 .probability = UINT32_MAX,
                                 .interval_us = 1000000 / RATE_HZ,
                                 .granularity = GRANULARITY_LINE};
    if (!lane_put(&s->segment.lanes[LANE_ACTION], &begin))
        return;
    counter_add(&s->segment.worker->admitted, 1);
    for (int k = 0; k < AN_ACTION; k++)
        synthetic_sample(s, s->serial, stack[lrand48() % STACKS], STATE_CPU, NS_PER_SECOND / RATE_HZ);
    struct record_end end = {.header = {sizeof end, RECORD_END, 0},
                             .time_ns = now,
                             .action_serial = s->serial,
                             .latency_ns = NS_PER_SECOND / BURSTS_HZ,
                             .type = 1};
    lane_put(&s->segment.lanes[LANE_ACTION], &end);
    counters_add(s->segment.counters, 1, NS_PER_SECOND / BURSTS_HZ, false, DENIALS);
}

/* Owns `count` segments until it is killed. Writes to one after the other, so that none is in step with
 * another. */
static void write_for_ever(int count, int ready)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct synthetic *mine = calloc((size_t)count, sizeof *mine);
    uint32_t(*stack)[STACKS] = calloc((size_t)count, sizeof *stack);
    if (mine == NULL || stack == NULL)
        _exit(1);
    srand48(getpid());
    for (int i = 0; i < count; i++) {
        mine[i] = home;
        synthetic_attach(&mine[i]);
        define(&mine[i], stack[i]);
    }
    if (write(ready, "x", 1) != 1)
        _exit(1);
    uint64_t next = clock_monotonic_ns();
    for (int i = 0;; i = (i + 1) % count) {
        burst(&mine[i], stack[i]);
        next += NS_PER_SECOND / BURSTS_HZ / (uint64_t)count;
        uint64_t now = clock_monotonic_ns();
        if (next > now + 2000000) {
            struct timespec until = {.tv_sec = (time_t)(next / NS_PER_SECOND),
                                     .tv_nsec = (long)(next % NS_PER_SECOND)};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        }
    }
}

static void start_writers(pid_t writer[WRITERS])
{
    int ready[2];
    ck_assert_int_eq(pipe(ready), 0);
    for (int i = 0; i < WRITERS; i++) {
        int count = workers / WRITERS + (i < workers % WRITERS);
        writer[i] = fork();
        if (writer[i] == 0)
            write_for_ever(count, ready[1]);
    }
    for (int i = 0; i < WRITERS; i++) {
        char byte;
        ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    }
    close(ready[0]);
    close(ready[1]);
}

/* ---- the aggregator ------------------------------------------------------------------------------------ */

static pid_t start_service(void)
{
    char self[DIRECTORY_PATH_MAX], program[2 * DIRECTORY_PATH_MAX], log[DIRECTORY_PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    ck_assert_int_gt(n, 0);
    self[n] = '\0';
    snprintf(program, sizeof program, "%s/../bin/profilomatic-aggregator", dirname(self));
    snprintf(log, sizeof log, "%s/log", home.directory);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl(program, program, "--directory", home.directory, "--log", log, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static json_t *ask_status(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", home.directory, DIRECTORY_CONTROL);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    json_t *answer = NULL;
    if (connect(fd, (const struct sockaddr *)(const void *)&address, sizeof address) != 0) {
        close(fd);
        return NULL;
    }
    dprintf(fd, "{\"verb\":\"status\"}\n");
    FILE *stream = fdopen(fd, "r");
    answer = json_loadf(stream, JSON_DISABLE_EOF_CHECK, NULL);
    fclose(stream);
    return answer;
}

static json_t *pool_of(const json_t *status)
{
    return json_array_get(json_object_get(status, "pools"), 0);
}

/* How many workers it has; 0 as long as it does not answer. */
static size_t attached(void)
{
    json_t *status = ask_status();
    size_t n = json_array_size(json_object_get(pool_of(status), "workers"));
    json_decref(status);
    return n;
}

static void wait_for_all(pid_t service)
{
    uint64_t began = clock_monotonic_ns();
    while (attached() < (size_t)workers) {
        ck_assert_msg(since(began) < 60 && waitpid(service, NULL, WNOHANG) == 0,
                      "it does not find all workers");
        usleep(10000);
    }
}

/* CPU of all its threads, in seconds. */
static double cpu_of(pid_t pid)
{
    char path[64], below[384];
    double sum = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    for (struct dirent *e; tasks != NULL && (e = readdir(tasks)) != NULL;) {
        unsigned long long ran;
        snprintf(below, sizeof below, "%s/%s/schedstat", path, e->d_name);
        FILE *file = e->d_name[0] != '.' ? fopen(below, "r") : NULL;
        if (file != NULL && fscanf(file, "%llu", &ran) == 1)
            sum += (double)ran / 1e9;
        if (file != NULL)
            fclose(file);
    }
    if (tasks != NULL)
        closedir(tasks);
    return sum;
}

static double resident_mb(pid_t pid, const char *key)
{
    char path[64], line[256];
    double mb = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, key, strlen(key)) == 0)
            mb = strtod(line + strlen(key), NULL) / 1024;
    if (file != NULL)
        fclose(file);
    return mb;
}

static void measure_load(pid_t service)
{
    json_t *before = ask_status();
    double cpu = cpu_of(service);
    uint64_t began = clock_monotonic_ns();
    usleep((useconds_t)(seconds * 1e6));
    double took = since(began), used = cpu_of(service) - cpu;
    json_t *after = ask_status();
    double samples = (double)(json_integer_value(json_object_get(pool_of(after), "samples")) -
                              json_integer_value(json_object_get(pool_of(before), "samples")));
    double dropped = (double)json_integer_value(json_object_get(pool_of(after), "dropped"));
    char what[64], beside[96];
    snprintf(what, sizeof what, "%d workers at %d Hz: of one core", workers, RATE_HZ);
    snprintf(beside, sizeof beside, "%.0f samples/s, %.0f ns each; %.0f dropped", samples / took,
             used * 1e9 / samples, dropped);
    tell(what, 100 * used / took, "%", 5, beside);
    tell("its resident memory, at most", resident_mb(service, "VmHWM:"), "MB", 256, "");
    json_decref(before);
    json_decref(after);
}

static void end(pid_t pid, int signal_number)
{
    kill(pid, signal_number);
    waitpid(pid, NULL, 0);
}

static void bench_service(bool load, bool recovery)
{
    pid_t writer[WRITERS];
    synthetic_directory(&home);
    start_writers(writer);
    pid_t service = start_service();
    wait_for_all(service);
    usleep(3000000); /* definitions are read, a window has begun */
    if (load)
        measure_load(service);
    if (recovery) {
        end(service, SIGKILL);
        uint64_t began = clock_monotonic_ns();
        service = start_service();
        wait_for_all(service);
        double took = since(began);
        char beside[64];
        snprintf(beside, sizeof beside, "its CPU by then: %.2f s", cpu_of(service));
        tell("recovery: a new one has all of them", took, "s", 2, beside);
    }
    for (int i = 0; i < WRITERS; i++)
        end(writer[i], SIGKILL);
    end(service, SIGTERM);
    synthetic_end(&home);
}

/* ---- all ----------------------------------------------------------------------------------------------- */

static bool wanted(int argc, char **argv, int first, const char *what)
{
    for (int i = first; i < argc; i++)
        if (strcmp(argv[i], what) == 0)
            return true;
    return first >= argc;
}

int main(int argc, char **argv)
{
    int first = 1;
    for (; first + 1 < argc && argv[first][0] == '-'; first += 2) {
        if (strcmp(argv[first], "--seconds") == 0)
            seconds = atof(argv[first + 1]);
        else if (strcmp(argv[first], "--workers") == 0)
            workers = atoi(argv[first + 1]);
    }
    if (seconds <= 0 || workers < WRITERS || workers > WORKERS_MOST) {
        fprintf(stderr, "usage: shm [--seconds N] [--workers N] [put|attach|load|recovery...]\n");
        return 2;
    }
    if (wanted(argc, argv, first, "put"))
        bench_put();
    if (wanted(argc, argv, first, "attach"))
        bench_attach();
    bool load = wanted(argc, argv, first, "load"), recovery = wanted(argc, argv, first, "recovery");
    if (load || recovery)
        bench_service(load, recovery);
    return missed ? EXIT_FAILURE : EXIT_SUCCESS;
}
