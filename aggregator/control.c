/*
 * The control socket's thread: see control.h.
 *
 * All connections are served by one poll() loop with non-blocking descriptors. The lock guards the list of
 * clients and their output buffers, because control_publish() appends to them from the drain's thread; it is
 * never held while `answer` or `sync` run, nor while the thread waits. Only this thread frees a client.
 */
#include "aggregator/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "shm/fault.h"
#include "shm/testpoint.h"

enum {
    CLIENTS_MAX = 128,
    GUESTS_MAX = 64, /* of them, so that others still get in */
    REQUEST_BYTES_MAX = 64 << 10,
    SUBSCRIBED_BYTES_MAX = 4 << 20, /* queued for one subscriber; more is dropped */
    SHUT_MS = 200,                  /* before somebody is let in after descriptors were wanting */
    REPLY_BYTES_PAUSE = 1 << 20,    /* a client with so much unread gets no further request served */
};

struct buffer {
    char *bytes;
    size_t start, end, capacity; /* [start, end) is what is there */
};

struct client {
    int fd;
    bool subscribed;
    bool finished;        /* it will send nothing more: goes when all is answered */
    _Atomic bool closing; /* broken: goes at once */
    bool guest;           /* of another user */
    struct ucred peer;    /* as it was when it connected */
    int32_t pid;          /* subscribed to */
    uint64_t dropped;     /* messages since the client was last told */
    struct buffer in, out;
};

static struct {
    pthread_t thread;
    bool running;
    int listener, wake;
    _Atomic bool stopping;
    _Atomic unsigned subscribers;
    struct control_handlers handlers;
    char path[sizeof((struct sockaddr_un *)0)->sun_path + 512];
    pthread_mutex_t lock;
    struct client *clients[CLIENTS_MAX];
    unsigned count;
} control = {.listener = -1, .wake = -1, .lock = PTHREAD_MUTEX_INITIALIZER};

static size_t buffer_bytes(const struct buffer *b)
{
    return b->end - b->start;
}

/* Room for `more` bytes at the end; false without memory. */
static bool buffer_reserve(struct buffer *b, size_t more)
{
    if (b->start == b->end)
        b->start = b->end = 0;
    if (b->capacity - b->end >= more)
        return true;
    if (b->start != 0) {
        memmove(b->bytes, b->bytes + b->start, buffer_bytes(b));
        b->end -= b->start;
        b->start = 0;
    }
    if (b->capacity - b->end >= more)
        return true;
    size_t capacity = b->capacity * 2 > b->end + more ? b->capacity * 2 : b->end + more + 512;
    char *grown = realloc(b->bytes, capacity);
    if (grown == NULL)
        return false;
    b->bytes = grown;
    b->capacity = capacity;
    return true;
}

static bool buffer_put_line(struct buffer *b, const char *line, size_t bytes)
{
    if (!buffer_reserve(b, bytes + 1))
        return false;
    memcpy(b->bytes + b->end, line, bytes);
    b->bytes[b->end + bytes] = '\n';
    b->end += bytes + 1;
    return true;
}

static void ring(void)
{
    uint64_t one = 1;
    ssize_t ignored = write(control.wake, &one, sizeof one); /* fails only if it is rung already */
    (void)ignored;
}

bool control_has_subscriber(int32_t pid)
{
    if (atomic_load_explicit(&control.subscribers, memory_order_relaxed) == 0)
        return false;
    bool found = false;
    pthread_mutex_lock(&control.lock);
    for (unsigned i = 0; i < control.count && !found; i++)
        found = control.clients[i]->subscribed && control.clients[i]->pid == pid;
    pthread_mutex_unlock(&control.lock);
    return found;
}

void control_publish(int32_t pid, const char *line, size_t bytes)
{
    if (atomic_load_explicit(&control.subscribers, memory_order_relaxed) == 0)
        return;
    bool queued = false;
    pthread_mutex_lock(&control.lock);
    for (unsigned i = 0; i < control.count; i++) {
        struct client *c = control.clients[i];
        if (!c->subscribed || c->closing || c->pid != pid)
            continue;
        /* Once something was dropped, nothing more until the client knows: its place in the stream stays
         * right. */
        if (c->dropped != 0 || buffer_bytes(&c->out) + bytes > SUBSCRIBED_BYTES_MAX ||
            !buffer_put_line(&c->out, line, bytes))
            c->dropped++;
        queued = true;
    }
    pthread_mutex_unlock(&control.lock);
    if (queued)
        ring();
}

/* ---- one client; called in the thread, with the lock held except where said ---- */

static void tell_dropped(struct client *c)
{
    if (c->dropped == 0 || buffer_bytes(&c->out) > SUBSCRIBED_BYTES_MAX / 2)
        return;
    char line[96];
    int n =
        snprintf(line, sizeof line, "{\"kind\":\"status\",\"dropped\":%llu}", (unsigned long long)c->dropped);
    if (buffer_put_line(&c->out, line, (size_t)n))
        c->dropped = 0;
}

static void flush(struct client *c)
{
    for (;;) {
        tell_dropped(c);
        if (buffer_bytes(&c->out) == 0)
            return;
        ssize_t n = send(c->fd, c->out.bytes + c->out.start, buffer_bytes(&c->out), MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            if (errno != EAGAIN)
                c->closing = true;
            return;
        }
        c->out.start += (size_t)n;
        if (c->out.start == c->out.end && c->out.capacity > REPLY_BYTES_PAUSE) {
            free(c->out.bytes); /* a large report must not be held for the rest of the connection */
            c->out = (struct buffer){0};
        }
    }
}

static void reply(struct client *c, const char *text)
{
    pthread_mutex_lock(&control.lock);
    if (!buffer_put_line(&c->out, text, strlen(text)))
        c->closing = true;
    pthread_mutex_unlock(&control.lock);
}

static void subscribe(struct client *c, const json_t *request)
{
    const json_t *pid = json_object_get(request, "pid");
    json_int_t value = json_integer_value(pid);
    if (!json_is_integer(pid) || value <= 0 || value > INT32_MAX) {
        reply(c, "{\"error\":\"subscribe: \\\"pid\\\" must be a process id; name the process whose actions "
                 "are wanted\"}");
        return;
    }
    if (c->guest && value != c->peer.pid) {
        reply(c, "{\"error\":\"subscribe: another user may subscribe to its own process only\"}");
        return;
    }
    /* The reply goes first: from then on every line may be a message. */
    reply(c, "{\"kind\":\"subscribed\"}");
    pthread_mutex_lock(&control.lock);
    c->pid = (int32_t)value;
    if (!c->subscribed)
        atomic_fetch_add(&control.subscribers, 1);
    c->subscribed = true;
    pthread_mutex_unlock(&control.lock);
}

/* Without the lock. */
static void serve(struct client *c, const char *line, size_t bytes)
{
    json_error_t error;
    json_t *request = json_loadb(line, bytes, 0, &error);
    const char *verb = json_string_value(json_object_get(request, "verb"));
    if (verb == NULL) {
        json_t *said = json_pack("{s:o}", "error",
                                 json_sprintf("request: %s; send one JSON object with a \"verb\" a line",
                                              request == NULL ? error.text : "no \"verb\" in it"));
        char *text = json_dumps(said, JSON_COMPACT);
        reply(c, text != NULL ? text : "{\"error\":\"request: not understood\"}");
        free(text);
        json_decref(said);
    } else if (strcmp(verb, "subscribe") == 0) {
        subscribe(c, request);
    } else if (strcmp(verb, "sync") == 0) {
        bool complete = control.handlers.sync(control.handlers.context);
        reply(c, complete ? "{\"kind\":\"synced\"}" : "{\"kind\":\"synced\",\"complete\":false}");
    } else {
        char *text = c->guest ? control.handlers.guest(request, c->peer.uid, control.handlers.context)
                              : control.handlers.answer(request, control.handlers.context);
        reply(c, text != NULL
                     ? text
                     : "{\"error\":\"the aggregator could not answer (out of memory?); try again\"}");
        free(text);
    }
    json_decref(request);
}

/* Without the lock: read what is there and serve each whole line. */
static void receive(struct client *c)
{
    if (!buffer_reserve(&c->in, 4096)) {
        c->closing = true;
        return;
    }
    ssize_t n = recv(c->fd, c->in.bytes + c->in.end, c->in.capacity - c->in.end, 0);
    if (n == 0)
        c->finished = true;
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        c->closing = true;
    if (n > 0)
        c->in.end += (size_t)n;
}

static size_t unread_bytes(const struct client *c)
{
    pthread_mutex_lock(&control.lock);
    size_t bytes = buffer_bytes(&c->out);
    pthread_mutex_unlock(&control.lock);
    return bytes;
}

/* The end of the first whole line that waits; NULL if none does. */
static char *line_end(const struct client *c)
{
    return buffer_bytes(&c->in) == 0 ? NULL : memchr(c->in.bytes + c->in.start, '\n', buffer_bytes(&c->in));
}

/* Without the lock. */
static void serve_lines(struct client *c)
{
    char *newline;
    while (!c->closing && unread_bytes(c) < REPLY_BYTES_PAUSE && (newline = line_end(c)) != NULL) {
        char *line = c->in.bytes + c->in.start;
        c->in.start = (size_t)(newline + 1 - c->in.bytes);
        if (newline != line)
            serve(c, line, (size_t)(newline - line));
    }
    if (buffer_bytes(&c->in) > REQUEST_BYTES_MAX && line_end(c) == NULL) {
        reply(c, "{\"error\":\"request: longer than 64 KiB; send one JSON object a line\"}");
        c->in.start = c->in.end;
        c->finished = true;
    }
}

static bool has_guests(void)
{
    return control.handlers.guest != NULL && geteuid() == 0;
}

static bool is_own(const struct ucred *peer)
{
    return peer->uid == geteuid() || peer->uid == 0;
}

static unsigned guests(void)
{
    unsigned found = 0;
    for (unsigned i = 0; i < control.count; i++)
        found += control.clients[i]->guest;
    return found;
}

/* False: for want of descriptors or memory nobody can be let in for now. */
static bool greet(void)
{
    int fd = accept4(control.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS;
    struct ucred peer;
    socklen_t length = sizeof peer;
    struct client *c = NULL;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
        (is_own(&peer) || (has_guests() && guests() < GUESTS_MAX)) && control.count < CLIENTS_MAX)
        c = calloc(1, sizeof *c);
    if (c == NULL) {
        static const char refusal[] =
            "{\"error\":\"control socket: refused (another user, or too many connections)\"}\n";
        send(fd, refusal, sizeof refusal - 1, MSG_NOSIGNAL);
        close(fd);
        return true;
    }
    c->fd = fd;
    c->peer = peer;
    c->guest = !is_own(&peer);
    pthread_mutex_lock(&control.lock);
    control.clients[control.count++] = c;
    pthread_mutex_unlock(&control.lock);
    return true;
}

/* With the lock held. */
static void drop(unsigned i)
{
    struct client *c = control.clients[i];
    control.clients[i] = control.clients[--control.count];
    if (c->subscribed)
        atomic_fetch_sub(&control.subscribers, 1);
    close(c->fd);
    free(c->in.bytes);
    free(c->out.bytes);
    free(c);
}

/* ---- the thread ---- */

static void flush_and_sweep(bool all)
{
    pthread_mutex_lock(&control.lock);
    for (unsigned i = control.count; i-- > 0;) {
        flush(control.clients[i]);
        struct client *c = control.clients[i];
        bool answered = buffer_bytes(&c->out) == 0 && line_end(c) == NULL;
        if (c->closing || (c->finished && answered) || all)
            drop(i);
    }
    pthread_mutex_unlock(&control.lock);
}

static void *control_thread(void *unused)
{
    struct pollfd fds[CLIENTS_MAX + 2];
    struct client *who[CLIENTS_MAX];
    bool shut = false; /* the door, for a moment */
    if (control.handlers.thread_begin != NULL)
        control.handlers.thread_begin(control.handlers.context);
    while (!atomic_load(&control.stopping)) {
        pthread_mutex_lock(&control.lock);
        unsigned count = control.count;
        int timeout_ms = -1;
        for (unsigned i = 0; i < count; i++) {
            struct client *c = who[i] = control.clients[i];
            size_t unread = buffer_bytes(&c->out);
            bool reads = unread < REPLY_BYTES_PAUSE && !c->finished;
            fds[i] = (struct pollfd){.fd = c->fd,
                                     .events = (short)((reads ? POLLIN : 0) | (unread != 0 ? POLLOUT : 0))};
            if (unread < REPLY_BYTES_PAUSE && line_end(c) != NULL)
                timeout_ms = 0; /* a request that waited until the client had read */
        }
        pthread_mutex_unlock(&control.lock);
        fds[count] = (struct pollfd){.fd = control.wake, .events = POLLIN};
        /* A full house waits in the backlog instead of being polled for in vain. */
        bool lets_in = count < CLIENTS_MAX && !shut;
        fds[count + 1] = (struct pollfd){.fd = control.listener, .events = lets_in ? POLLIN : 0};
        if (shut && timeout_ms < 0)
            timeout_ms = SHUT_MS;
        shut = false;
        if (poll(fds, count + 2, timeout_ms) < 0 && errno != EINTR)
            break;
        uint64_t rung;
        if (fds[count].revents != 0 && read(control.wake, &rung, sizeof rung) < 0 && errno != EAGAIN)
            break;
        for (unsigned i = 0; i < count; i++) {
            if (fds[i].revents & (POLLERR | POLLNVAL))
                who[i]->closing = true;
            else if (fds[i].revents & POLLIN)
                receive(who[i]);
            else if (fds[i].revents & POLLHUP)
                who[i]->closing = true;
            serve_lines(who[i]);
        }
        if (fds[count + 1].revents & POLLIN)
            shut = !greet();
        flush_and_sweep(false);
    }
    flush_and_sweep(true);
    if (control.handlers.thread_end != NULL)
        control.handlers.thread_end(control.handlers.context);
    return unused;
}

/*
 * Bind below a temporary name and rename, so that nobody finds a socket that does not listen yet. The name
 * given to bind() goes through a descriptor of the folder where the path is longer than an address may be.
 */
static int listen_at(const char *path)
{
    char folder[512], temporary[600];
    const char *slash = strrchr(path, '/');
    if (slash == NULL || (size_t)(slash - path) >= sizeof folder || slash == path)
        return fault(EINVAL, "control socket %s (an absolute path of at most %zu bytes)", path,
                     sizeof folder);
    memcpy(folder, path, (size_t)(slash - path));
    folder[slash - path] = '\0';
    int directory = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return fault(errno, "cannot open %s", folder);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(temporary, sizeof temporary, "%s/.control.new", folder);
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/.control.new", directory);
    unlink(temporary); /* left by a crash; the directory has one aggregator at a time */

    int rc = 0;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) != 0)
        rc = -errno;
    TESTPOINT("control-bound"); /* Nobody asks there: it has not got its name. The next life removes it. */
    if (fd < 0 || rc != 0 || chmod(temporary, has_guests() ? 0666 : 0600) != 0 || listen(fd, 64) != 0 ||
        rename(temporary, path) != 0) {
        rc = fault(errno, "cannot listen at %s", path);
        unlink(temporary);
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    TESTPOINT("control-renamed"); /* Clients are refused until the next life has put its own in its place. */
    close(directory);
    return rc != 0 ? rc : fd;
}

int control_start(const char *socket_path, const struct control_handlers *handlers)
{
    if (strlen(socket_path) >= sizeof control.path)
        return fault(ENAMETOOLONG, "control socket %s", socket_path);
    control.handlers = *handlers;
    int fd = listen_at(socket_path);
    if (fd < 0)
        return fd;
    strcpy(control.path, socket_path);
    control.listener = fd;
    control.wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    atomic_store(&control.stopping, false);

    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = control.wake < 0 ? errno : pthread_create(&control.thread, NULL, control_thread, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        unlink(socket_path);
        close(control.listener);
        if (control.wake >= 0)
            close(control.wake);
        return fault(error, "cannot start the control socket's thread");
    }
    pthread_setname_np(control.thread, "pom-control");
    control.running = true;
    return 0;
}

void control_stop(void)
{
    if (!control.running)
        return;
    atomic_store(&control.stopping, true);
    ring();
    pthread_join(control.thread, NULL);
    unlink(control.path);
    TESTPOINT("control-removed"); /* Clients find no aggregator, though all was not yet drained. */
    close(control.listener);
    close(control.wake);
    control.running = false;
}
