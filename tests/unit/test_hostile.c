/*
 * What anybody with the pool's uid may put beside honest workers, and what the real aggregator makes of it:
 * each damaged segment is set aside with one line and one more in a counter of `status`, in bounded memory;
 * the honest worker beside it goes on being counted, and so does the service.
 *
 * One aggregator lives through all of it. The honest worker is this process.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "shm/budget.h"
#include "tests/unit/suite.h"
#include "tests/unit/synthetic.h"

enum {
    PATIENCE_MS = 30000,
    RESIDENT_MOST_MB = 192, /* with all that is put here; an honest pool of this size takes some 10 */
    GARBAGE_REQUESTS = 300,
};
#define MS UINT64_C(1000000)

#if defined(__SANITIZE_THREAD__)
/* Its own handler does not survive the jump out of a load from a page that was cut. */
enum { SANITIZED = 1, BAD_SEGMENTS_FROM = 2 };
#elif defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1, BAD_SEGMENTS_FROM = 0 };
#else
enum { SANITIZED = 0, BAD_SEGMENTS_FROM = 0 };
#endif

static struct synthetic good;
static char log_path[DIRECTORY_PATH_MAX];
static pid_t service;
static uint64_t counted; /* actions of the good worker */

/* ---- the aggregator ------------------------------------------------------------------------------------ */

static void start_service(void)
{
    char self[DIRECTORY_PATH_MAX], program[2 * DIRECTORY_PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    ck_assert_int_gt(n, 0);
    self[n] = '\0';
    snprintf(program, sizeof program, "%s/../bin/profilomatic-aggregator", dirname(self));
    service = fork();
    if (service == 0) {
        execl(program, program, "--directory", good.directory, "--log", log_path, (char *)NULL);
        _exit(127);
    }
    ck_assert_int_gt(service, 0);
}

/* The answer to {"verb": verb}, or NULL where nobody answers. */
static json_t *ask(const char *verb)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", good.directory, DIRECTORY_CONTROL);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    json_t *answer = NULL;
    if (connect(fd, (const struct sockaddr *)(const void *)&address, sizeof address) == 0) {
        dprintf(fd, "{\"verb\":\"%s\"}\n", verb);
        FILE *stream = fdopen(fd, "r");
        answer = json_loadf(stream, JSON_DISABLE_EOF_CHECK, NULL);
        fclose(stream);
    } else {
        close(fd);
    }
    return answer;
}

static void nap(void)
{
    const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
    nanosleep(&pause, NULL);
}

static bool patient(uint64_t began)
{
    int status;
    nap();
    ck_assert_msg(service > 0, "the service ended before");
    if (waitpid(service, &status, WNOHANG) == service) {
        service = 0;
        ck_abort_msg("the service ended with status %x", (unsigned)status);
    }
    return clock_monotonic_ns() - began < PATIENCE_MS * MS;
}

static uint64_t number(const json_t *json, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(json, key));
}

/* A counter of the pool's status; 0 as long as there is no pool. */
static uint64_t counter(const char *key)
{
    json_t *status = ask("status");
    uint64_t value = number(json_array_get(json_object_get(status, "pools"), 0), key);
    json_decref(status);
    return value;
}

static void wait_for_counter(const char *key, uint64_t value)
{
    uint64_t began = clock_monotonic_ns();
    while (counter(key) < value)
        ck_assert_msg(patient(began), "%s stays below %llu", key, (unsigned long long)value);
    ck_assert_uint_eq(counter(key), value);
}

static uint64_t reported(void)
{
    json_t *report = ask("report"), *action;
    size_t i;
    uint64_t count = 0;
    json_array_foreach(json_object_get(report, "actions"), i, action)
    {
        if (strcmp(json_string_value(json_object_get(action, "action_type")), "/good") == 0)
            count = number(action, "count");
    }
    json_decref(report);
    return count;
}

static unsigned lines(void)
{
    unsigned n = 0;
    FILE *log = fopen(log_path, "r");
    for (int c; log != NULL && (c = getc(log)) != EOF;)
        n += c == '\n';
    if (log != NULL)
        fclose(log);
    return n;
}

/* The honest worker works on and is counted, exactly. */
static void check_good_worker(void)
{
    for (int i = 0; i < 20; i++)
        synthetic_count(&good, 1, (uint64_t)(i + 1) * MS);
    counted += 20;
    uint64_t began = clock_monotonic_ns();
    while (reported() < counted)
        ck_assert_msg(patient(began), "the honest worker is not read any more");
    ck_assert_uint_eq(reported(), counted);
}

static void set_up(void)
{
    synthetic_directory(&good);
    synthetic_attach(&good);
    synthetic_type(&good, 0, "(other)");
    synthetic_type(&good, 1, "/good");
    snprintf(log_path, sizeof log_path, "%s/log", good.directory);
    counted = 0;
    start_service();
    check_good_worker();
}

static uint64_t resident_most_kb(void)
{
    char path[64], line[256];
    uint64_t kb = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)service);
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, "VmHWM:", 6) == 0)
            kb = strtoull(line + 6, NULL, 10);
    if (file != NULL)
        fclose(file);
    return kb;
}

/* It lived through everything: still the same process, which ends as it should. */
static void tear_down(void)
{
    int status;
    ck_assert_int_gt(service, 0);
    uint64_t kb = resident_most_kb();
    kill(service, SIGTERM);
    ck_assert_int_eq(waitpid(service, &status, 0), service);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "it ended with status %x", (unsigned)status);
    ck_assert_uint_gt(kb, 0);
    if (!SANITIZED)
        ck_assert_uint_lt(kb, RESIDENT_MOST_MB * 1024);
    synthetic_end(&good);
}

/* ---- a file in rings/ that is no segment --------------------------------------------------------------- */

static void name_of(const struct segment_header *header, const char *end, char out[DIRECTORY_PATH_MAX])
{
    char uuid[33];
    for (int i = 0; i < 16; i++)
        snprintf(uuid + 2 * i, 3, "%02x", header->uuid[i]);
    snprintf(out, DIRECTORY_PATH_MAX, "%s/rings/%s%s", good.pool, uuid, end);
}

/* A segment of this process under a name that is not looked at yet; `path` becomes what it is to be called.
 */
static void make_hidden(struct synthetic *s, char hidden[DIRECTORY_PATH_MAX], char path[DIRECTORY_PATH_MAX])
{
    char rings[DIRECTORY_PATH_MAX];
    *s = good;
    /* Made where nobody looks, on the same file system. */
    snprintf(rings, sizeof rings, "%s/aside", good.directory);
    if (mkdir(rings, 0700) != 0)
        ck_assert_int_eq(errno, EEXIST);
    ck_assert_int_eq(segment_create(&s->segment, rings, "unit", 0x030c01f0, &segment_default_sizes), 0);
    s->strings = s->codes = s->nodes = 0;
    char uuid[33];
    for (int i = 0; i < 16; i++)
        snprintf(uuid + 2 * i, 3, "%02x", s->segment.header->uuid[i]);
    snprintf(hidden, DIRECTORY_PATH_MAX, "%s/%s.ring", rings, uuid);
    name_of(s->segment.header, ".ring", path);
}

static const char *const no_segments[] = {
    "of no bytes",
    "of a hundred bytes",
    "cut",
    "grown",
    "of 64 MB",
    "of zeros",
    "of another version",
    "of another byte order",
    "without its magic",
    "whose areas overlap",
    "whose lane is no power of two",
    "whose lane lies outside",
    "whose offset wraps",
    "of no process",
    "under another name",
    "with a text that does not end",
    "a link",
    "a second name",
    "a pipe",
    "a folder",
    "of another user",
};

START_TEST(what_is_no_segment_is_refused_in_one_line)
{
    struct synthetic s;
    char hidden[DIRECTORY_PATH_MAX], path[DIRECTORY_PATH_MAX], other[DIRECTORY_PATH_MAX];
    make_hidden(&s, hidden, path);
    struct segment_header *header = s.segment.header;
    uint64_t before = counter("refused_files");
    unsigned said = lines();
    const char *what = no_segments[_i];
    bool put = true;
    if (strcmp(what, "of no bytes") == 0) {
        ck_assert_int_eq(truncate(hidden, 0), 0);
    } else if (strcmp(what, "of a hundred bytes") == 0) {
        ck_assert_int_eq(truncate(hidden, 100), 0);
    } else if (strcmp(what, "cut") == 0) {
        ck_assert_int_eq(truncate(hidden, (off_t)header->file_bytes - SEGMENT_PAGE), 0);
    } else if (strcmp(what, "grown") == 0) {
        ck_assert_int_eq(truncate(hidden, (off_t)header->file_bytes + SEGMENT_PAGE), 0);
    } else if (strcmp(what, "of 64 MB") == 0) {
        ck_assert_int_eq(truncate(hidden, 64 << 20), 0);
        header->file_bytes = 64 << 20;
    } else if (strcmp(what, "of zeros") == 0) {
        memset(s.segment.base, 0, s.segment.bytes);
    } else if (strcmp(what, "of another version") == 0) {
        header->abi_major++;
    } else if (strcmp(what, "of another byte order") == 0) {
        header->endian_tag = __builtin_bswap32(header->endian_tag);
    } else if (strcmp(what, "without its magic") == 0) {
        header->magic ^= 1;
    } else if (strcmp(what, "whose areas overlap") == 0) {
        header->lanes[1].offset = header->lanes[0].offset;
    } else if (strcmp(what, "whose lane is no power of two") == 0) {
        header->lanes[0].bytes -= 8;
    } else if (strcmp(what, "whose lane lies outside") == 0) {
        header->lanes[1].offset = header->file_bytes;
    } else if (strcmp(what, "whose offset wraps") == 0) {
        header->lanes[1].offset = UINT64_MAX - SEGMENT_PAGE + 1;
    } else if (strcmp(what, "of no process") == 0) {
        header->pid = -1;
    } else if (strcmp(what, "under another name") == 0) {
        header->uuid[7] ^= 1;
    } else if (strcmp(what, "with a text that does not end") == 0) {
        memset(header->source, 'x', sizeof header->source);
    } else if (strcmp(what, "a link") == 0) {
        put = false;
        snprintf(other, sizeof other, "%s/aside/link", good.directory);
        unlink(other);
        ck_assert_int_eq(symlink(hidden, other), 0);
        ck_assert_int_eq(rename(other, path), 0);
    } else if (strcmp(what, "a second name") == 0) {
        snprintf(other, sizeof other, "%s/aside/second", good.directory);
        unlink(other);
        ck_assert_int_eq(link(hidden, other), 0);
    } else if (strcmp(what, "a pipe") == 0) {
        unlink(hidden);
        ck_assert_int_eq(mkfifo(hidden, 0600), 0);
    } else if (strcmp(what, "a folder") == 0) {
        unlink(hidden);
        ck_assert_int_eq(mkdir(hidden, 0700), 0);
    } else {
        ck_assert_str_eq(what, "of another user");
        put = geteuid() == 0; /* nobody else can make one */
        if (put)
            ck_assert_int_eq(chown(hidden, 12345, (gid_t)-1), 0);
        else
            before--;
    }
    if (put)
        ck_assert_int_eq(rename(hidden, path), 0);
    wait_for_counter("refused_files", before + 1);
    check_good_worker();
    ck_assert_msg(lines() <= said + 1, "%s is told of more than once", what);
    ck_assert_uint_eq(counter("quarantined"), 0);
    segment_unmap(&s.segment);
}
END_TEST

/* ---- segments that go bad ------------------------------------------------------------------------------ */

static void define_one(struct synthetic *s, uint32_t parent, uint32_t code)
{
    struct define_node node = {.header.kind = DEFINE_NODE, .parent = parent, .code = code};
    ck_assert(definitions_put(&s->segment.definitions[DEFINITIONS_SAMPLER], &node, sizeof node, NULL, 0));
}

static void punch(const char *path, uint64_t offset, uint64_t bytes)
{
    int fd = open(path, O_RDWR);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes),
                     0);
    close(fd);
}

/* Those that are cut stand first. */
static const char *const bad_segments[] = {
    "cut to nothing",
    "cut to its header",
    "punched through",
    "with a hole for a page",
    "with a hole for its counters",
    "with a hole for its lane",
    "with a tail that runs backwards",
    "with a tail far ahead",
    "with a forged record",
    "with definitions that run backwards",
    "with definitions far ahead",
    "with a stack that is its own caller",
    "with two stacks that call each other",
    "with a string that is longer than its area",
    "with a counter that falls",
};

START_TEST(a_segment_that_goes_bad_is_set_aside_in_one_line)
{
    struct synthetic s;
    char hidden[DIRECTORY_PATH_MAX], path[DIRECTORY_PATH_MAX];
    make_hidden(&s, hidden, path);
    synthetic_type(&s, 0, "(other)");
    synthetic_type(&s, 1, "/bad");
    uint32_t leaf = synthetic_node(&s, 0, "f.py", "f", 1);
    uint64_t serial = synthetic_begin(&s, 1, 0, 1);
    ck_assert(synthetic_sample(&s, serial, leaf, STATE_CPU, 10 * MS));
    synthetic_count(&s, 1, MS);
    uint64_t samples = counter("samples"), before = counter("quarantined");
    unsigned said = lines();
    ck_assert_int_eq(rename(hidden, path), 0);
    wait_for_counter("samples", samples + 1); /* it was a good one until now */
    const struct segment_header header = *s.segment.header;
    struct worker_page *page = s.segment.worker;
    const char *what = bad_segments[_i];
    if (strcmp(what, "cut to nothing") == 0) {
        ck_assert_int_eq(truncate(path, 0), 0);
    } else if (strcmp(what, "cut to its header") == 0) {
        ck_assert_int_eq(truncate(path, SEGMENT_PAGE), 0);
    } else if (strcmp(what, "punched through") == 0) {
        punch(path, 0, header.file_bytes);
    } else if (strcmp(what, "with a hole for a page") == 0) {
        punch(path, SEGMENT_PAGE, SEGMENT_PAGE);
    } else if (strcmp(what, "with a hole for its counters") == 0) {
        punch(path, header.counters.offset, header.counters.bytes);
        counters_add(s.segment.counters, 1, MS, false, DENIED_LOTTERY);
        atomic_store(&s.segment.counters->rows_used, 2);
        atomic_store(&s.segment.counters->row[1].changes, 99);
        atomic_store(&s.segment.counters->row[1].count, 0);
    } else if (strcmp(what, "with a hole for its lane") == 0) {
        synthetic_finish(&s, serial, 1, MS, false);
        punch(path, header.lanes[LANE_SAMPLER].offset, header.lanes[LANE_SAMPLER].bytes);
        uint64_t tail = atomic_load(&page->lanes[LANE_SAMPLER].tail);
        atomic_store(&page->lanes[LANE_SAMPLER].tail, tail + 48);
    } else if (strcmp(what, "with a tail that runs backwards") == 0) {
        atomic_store(&page->lanes[LANE_SAMPLER].tail, 8);
    } else if (strcmp(what, "with a tail far ahead") == 0) {
        atomic_store(&page->lanes[LANE_ACTION].tail, UINT64_MAX - 7);
    } else if (strcmp(what, "with a forged record") == 0) {
        struct record_header forged = {.size = UINT32_C(0xfffffff8), .kind = RECORD_SAMPLE};
        uint64_t tail = atomic_load(&page->lanes[LANE_SAMPLER].tail);
        memcpy(s.segment.lanes[LANE_SAMPLER].data + tail, &forged, sizeof forged);
        atomic_store(&page->lanes[LANE_SAMPLER].tail, tail + 48);
    } else if (strcmp(what, "with definitions that run backwards") == 0) {
        atomic_store(&page->defined[DEFINITIONS_SAMPLER], 8);
    } else if (strcmp(what, "with definitions far ahead") == 0) {
        atomic_store(&page->defined[DEFINITIONS_ACTION], UINT64_C(1) << 62);
    } else if (strcmp(what, "with a stack that is its own caller") == 0) {
        define_one(&s, s.nodes + 1, 1);
    } else if (strcmp(what, "with two stacks that call each other") == 0) {
        define_one(&s, s.nodes + 2, 1);
        define_one(&s, s.nodes + 1, 1);
    } else if (strcmp(what, "with a string that is longer than its area") == 0) {
        struct define_string string = {.header.kind = DEFINE_STRING, .length = 1 << 20};
        definitions_put(&s.segment.definitions[DEFINITIONS_SAMPLER], &string, sizeof string, "f", 1);
    } else {
        ck_assert_str_eq(what, "with a counter that falls");
        atomic_store(&s.segment.counters->row[1].latency_sum_ns, 0);
        atomic_fetch_add(&s.segment.counters->row[1].changes, 1);
    }
    wait_for_counter("quarantined", before + 1);
    check_good_worker();
    ck_assert_uint_eq(counter("quarantined"), before + 1);
    ck_assert_msg(lines() == said + 1, "%s: %u lines", what, lines() - said);
    segment_unmap(&s.segment);
}
END_TEST

/* ---- too much of everything ---------------------------------------------------------------------------- */

/* A definition area of 12 MB, filled with names that nobody has seen before. */
static void fill_with_names(struct synthetic *s, unsigned salt, uint32_t length)
{
    struct definitions *area = &s->segment.definitions[DEFINITIONS_SAMPLER];
    char *text = malloc(length);
    memset(text, 'n', length);
    for (unsigned i = 0;; i++) {
        char distinct[24];
        int n = snprintf(distinct, sizeof distinct, "%u.%u/", salt, i);
        memcpy(text, distinct, (size_t)n < length ? (size_t)n : length);
        struct define_string string = {.header.kind = DEFINE_STRING, .length = length};
        if (!definitions_put(area, &string, sizeof string, text, length))
            break;
        struct define_code code = {
            .header.kind = DEFINE_CODE, .file = ++s->strings, .first_line = 1, .length = 1};
        struct define_node node = {.header.kind = DEFINE_NODE, .code = ++s->codes, .line = i};
        if (!definitions_put(area, &code, sizeof code, "f", 1) ||
            !definitions_put(area, &node, sizeof node, NULL, 0))
            break;
        s->nodes++;
    }
    free(text);
}

START_TEST(endless_definitions_and_names_of_a_megabyte_are_bounded)
{
    static const uint32_t lengths[] = {24, 24, 24, 2000, 2000, 1 << 20};
    const struct segment_sizes sizes = {128 << 10, 32 << 10, 12 << 20, 32 << 10};
    unsigned said = lines();
    uint64_t quarantined = counter("quarantined"), samples = counter("samples");
    for (unsigned i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct synthetic s = good;
        char rings[DIRECTORY_PATH_MAX], hidden[DIRECTORY_PATH_MAX], path[DIRECTORY_PATH_MAX];
        snprintf(rings, sizeof rings, "%s/aside", good.directory);
        ck_assert_int_eq(segment_create(&s.segment, rings, "unit", 0x030c01f0, &sizes), 0);
        s.strings = s.codes = s.nodes = 0;
        synthetic_type(&s, 1, "/endless");
        fill_with_names(&s, i, lengths[i]);
        ck_assert_uint_gt(s.nodes, 0);
        uint64_t serial = synthetic_begin(&s, 1, 0, 1);
        ck_assert(synthetic_sample(&s, serial, s.nodes, STATE_CPU, 10 * MS));
        char uuid[33];
        for (int k = 0; k < 16; k++)
            snprintf(uuid + 2 * k, 3, "%02x", s.segment.header->uuid[k]);
        snprintf(hidden, sizeof hidden, "%s/%s.ring", rings, uuid);
        name_of(s.segment.header, ".ring", path);
        ck_assert_int_eq(rename(hidden, path), 0);
        wait_for_counter("samples", ++samples);
        check_good_worker();
        synthetic_close_segment(&s);
        segment_unmap(&s.segment);
    }
    ck_assert_uint_eq(counter("quarantined"), quarantined);
    ck_assert_uint_eq(lines(), said);
}
END_TEST

START_TEST(a_budget_word_from_the_far_future_is_set_back)
{
    char path[DIRECTORY_PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/budget", good.pool);
    int fd = open(path, O_RDWR);
    ck_assert_int_ge(fd, 0);
    unsigned said = lines();
    uint64_t word = (clock_monotonic_ns() / NS_PER_SECOND + 1000000) << 32 | 3;
    ck_assert_int_eq(pwrite(fd, &word, sizeof word, offsetof(struct budget_page, word)), sizeof word);
    uint64_t began = clock_monotonic_ns(), now = word;
    while (now == word) {
        ck_assert_msg(patient(began), "the word stays");
        ck_assert_int_eq(pread(fd, &now, sizeof now, offsetof(struct budget_page, word)), sizeof now);
    }
    ck_assert_uint_le(budget_cycle_of(now), clock_monotonic_ns() / NS_PER_SECOND);
    check_good_worker();
    ck_assert_uint_eq(lines(), said + 1);
    close(fd);
}
END_TEST

/* ---- rubbish in requests/ ------------------------------------------------------------------------------ */

static void put_request(const char *name, const void *text, size_t bytes)
{
    char hidden[DIRECTORY_PATH_MAX + 32], path[DIRECTORY_PATH_MAX + 32];
    snprintf(hidden, sizeof hidden, "%s/aside/request", good.directory);
    snprintf(path, sizeof path, "%s/requests/%s", good.pool, name);
    int fd = open(hidden, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, bytes), (ssize_t)bytes);
    close(fd);
    ck_assert_int_eq(rename(hidden, path), 0);
}

START_TEST(rubbish_among_the_requests_is_refused_and_the_honest_one_holds)
{
    enum { DEEP = 200000 };
    char path[DIRECTORY_PATH_MAX + 32], *deep = malloc(DEEP);
    unsigned said = lines();
    uint64_t refused = 0;
    memset(deep, '[', DEEP);
    put_request("deep.json", deep, DEEP);
    memset(deep, 0xff, DEEP);
    put_request("bytes.json", deep, DEEP);
    put_request("empty.json", "", 0);
    put_request("array.json", "[1, 2]", 6);
    put_request("nothing.json", "{}", 2);
    put_request("kind.json", "{\"kind\": 7}", 11);
    put_request("twice.json", "{\"kind\": \"limits\", \"kind\": \"limits\"}", 36);
    static const char huge[] = "{\"kind\": \"limits\", \"max_actions_per_run\": 99999999999999999999}";
    put_request("huge.json", huge, sizeof huge - 1);
    static const char negative[] = "{\"kind\": \"limits\", \"max_overhead\": -1e308}";
    put_request("negative.json", negative, sizeof negative - 1);
    static const char names_none[] = "{\"kind\": \"file\"}";
    put_request("none.json", names_none, sizeof names_none - 1);
    snprintf(path, sizeof path, "%s/requests/link.json", good.pool);
    ck_assert_int_eq(symlink("/etc/passwd", path), 0);
    snprintf(path, sizeof path, "%s/requests/pipe.json", good.pool);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    snprintf(path, sizeof path, "%s/requests/folder.json", good.pool);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    free(deep);
    refused += 13;
    wait_for_counter("refused_requests", refused);
    ck_assert_uint_eq(lines(), said + refused);
    for (int i = 0; i < GARBAGE_REQUESTS; i++) {
        char name[32];
        snprintf(name, sizeof name, "rubbish-%d.json", i);
        put_request(name, "rubbish", 7);
    }
    static const char honest[] = "{\"kind\": \"limits\", \"max_overhead\": 0.0125}";
    put_request("honest.json", honest, sizeof honest - 1);
    uint64_t began = clock_monotonic_ns();
    double most = 0;
    while (most != 0.0125) {
        ck_assert_msg(patient(began), "the honest request does not hold: max_overhead is %g", most);
        json_t *status = ask("status"), *pool = json_array_get(json_object_get(status, "pools"), 0);
        most = json_number_value(json_object_get(json_object_get(pool, "limits"), "max_overhead"));
        json_decref(status);
    }
    ck_assert_uint_le(lines(), said + 128);
    check_good_worker();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("hostile");
    TCase *cases = tcase_create("beside an honest worker");
    tcase_add_unchecked_fixture(cases, set_up, tear_down);
    tcase_add_loop_test(cases, what_is_no_segment_is_refused_in_one_line, 0,
                        sizeof no_segments / sizeof *no_segments);
    tcase_add_loop_test(cases, a_segment_that_goes_bad_is_set_aside_in_one_line, BAD_SEGMENTS_FROM,
                        sizeof bad_segments / sizeof *bad_segments);
    tcase_add_test(cases, endless_definitions_and_names_of_a_megabyte_are_bounded);
    tcase_add_test(cases, a_budget_word_from_the_far_future_is_set_back);
    tcase_add_test(cases, rubbish_among_the_requests_is_refused_and_the_honest_one_holds);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_NOFORK);
}
