/*
 * Fuzzing the control socket: a real service runs here on a thread, with one worker's records, and each input
 * is what a client sends on a connection: a byte that says in how large parts, then the lines. Every whole
 * line that is not empty gets one answer, which is a JSON object, whatever it holds; then the connection
 * ends.
 */
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <urcu.h>

#include "aggregator/destination/destination.h"
#include "aggregator/log.h"
#include "aggregator/service.h"
#include "tests/unit/no_check.h"
#include "tests/unit/synthetic.h"

enum {
    LINES_MOST = 16, /* a report takes milliseconds */
    ANSWER_BYTES_MOST = 8 << 20,
    PATIENCE_S = 8,
};

static struct service service;
static struct synthetic s;
static pthread_t thread;
static char answers[ANSWER_BYTES_MOST];

static void *run(void *unused)
{
    rcu_register_thread();
    service_run(&service);
    rcu_unregister_thread();
    return unused;
}

static void stop(struct service *of, void *unused)
{
    (void)unused;
    of->stop = true;
}

static void end(void)
{
    MUST(service_call(&service, stop, NULL));
    pthread_join(thread, NULL);
    service_close(&service);
    synthetic_end(&s);
}

static void work(void)
{
    synthetic_type(&s, 0, "(other)");
    synthetic_type(&s, 1, "/cart");
    uint32_t node = synthetic_node(&s, 0, "app.py", "work", 1);
    uint64_t root = synthetic_begin(&s, 1, 0, 0.5);
    synthetic_sample(&s, root, node, STATE_CPU, 10000000);
    synthetic_finish(&s, root, 1, 30000000, false);
    root = synthetic_begin(&s, 1, 0, 0.5);
    synthetic_sample(&s, root, node, STATE_CPU, 10000000);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    rcu_init();
    rcu_register_thread();
    log_open("/dev/null");
    synthetic_directory(&s);
    synthetic_attach(&s);
    work();
    const struct service_options options = {.directory = s.directory};
    MUST(destinations_start() == 0 && service_open(&service, &options) == 0 && service_talk(&service) == 0);
    MUST(pthread_create(&thread, NULL, run, NULL) == 0);
    atexit(end);
    return 0;
}

static int dial(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    MUST(snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", s.directory, DIRECTORY_CONTROL) <
         (int)sizeof address.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    MUST(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
    MUST(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

/* Where the last line ends that is to be sent; counts those that want an answer. */
static size_t cut(const char *text, size_t size, unsigned *wanted)
{
    size_t at = 0;
    *wanted = 0;
    while (*wanted < LINES_MOST) {
        const char *newline = memchr(text + at, '\n', size - at);
        if (newline == NULL)
            return size; /* half a line is sent as well */
        *wanted += newline != text + at;
        at = (size_t)(newline - text) + 1;
    }
    return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const char *text = (const char *)data + 1;
    const size_t part = data[0] == 0 ? size : data[0];
    unsigned wanted, got = 0;
    size = cut(text, size - 1, &wanted);
    int fd = dial();
    for (size_t at = 0; at < size; at += part) {
        size_t now = size - at < part ? size - at : part;
        MUST(send(fd, text + at, now, MSG_NOSIGNAL) == (ssize_t)now);
    }
    MUST(shutdown(fd, SHUT_WR) == 0);
    size_t used = 0;
    for (;;) {
        ssize_t n = recv(fd, answers + used, sizeof answers - used, 0);
        if (n == 0)
            break;
        if (n < 0 && errno == EINTR) /* the fuzzer's own clock */
            continue;
        MUST(n > 0);
        used += (size_t)n;
    }
    close(fd);
    for (const char *at = answers, *newline; at < answers + used; at = newline + 1, got++) {
        newline = memchr(at, '\n', (size_t)(answers + used - at));
        MUST(newline != NULL);
        json_t *answer = json_loadb(at, (size_t)(newline - at), 0, NULL);
        MUST(json_is_object(answer));
        json_decref(answer);
    }
    MUST(got == wanted);
    return 0;
}
