/* Asking the aggregator: see client.h. */
#include "aggregator/cli/client.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "aggregator/cli/cli.h"
#include "aggregator/cli/private_directory.h"
#include "shm/directory.h"
#include "shm/fault.h"

enum {
    ANSWER_SECONDS_MAX = 30,
};

/* Through a descriptor of the folder: a socket's address holds 107 bytes, a path may be longer. */
static int connect_in(const char *directory)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int folder = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = folder < 0 ? -1 : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/" DIRECTORY_CONTROL, folder);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int rc =
            fault(errno,
                  "no aggregator answers in %s (it starts with the first profiled action; --directory or "
                  "PROFILOMATIC_DIR names another place)",
                  directory);
        if (fd >= 0)
            close(fd);
        if (folder >= 0)
            close(folder);
        return rc;
    }
    close(folder);
    struct timeval limit = {.tv_sec = ANSWER_SECONDS_MAX};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    return fd;
}

/*
 * Where nobody named a directory and none serves the default one, a `profilomatic run` under way may be
 * meant: it has a private directory below the default parent.
 */
static int connect_to_run(char *serving, size_t bytes)
{
    char parent[DIRECTORY_PATH_MAX], path[DIRECTORY_PATH_MAX], list[384] = "";
    unsigned count = 0;
    int found = -1;
    if (private_directory_parent(parent) != 0)
        return -1;
    DIR *folder = opendir(parent);
    const struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        int fd = -1;
        if (strncmp(entry->d_name, "run-", 4) != 0 || directory_join(path, parent, entry->d_name) != 0 ||
            (fd = connect_in(path)) < 0)
            continue;
        if (count++ == 0) {
            found = fd;
            snprintf(serving, bytes, "%s", path);
        } else {
            close(fd);
        }
        snprintf(list + strlen(list), sizeof list - strlen(list), " --directory %s", path);
    }
    if (folder != NULL)
        closedir(folder);
    if (count <= 1)
        return found;
    close(found);
    fault(0, "more than one `profilomatic run` is under way; name one:%s", list);
    return -EINVAL;
}

static int connect_anywhere(const char *directory)
{
    char standard[DIRECTORY_PATH_MAX], run[DIRECTORY_PATH_MAX];
    const char *named = getenv("PROFILOMATIC_DIR");
    if (directory != NULL)
        return connect_in(directory);
    int rc = directory_default(standard);
    if (rc != 0 || (rc = connect_in(standard)) >= 0 || (named != NULL && *named != '\0'))
        return rc;
    int fd = connect_to_run(run, sizeof run);
    if (fd >= 0)
        complain("asking the `profilomatic run` in %s", run);
    return fd == -1 ? connect_in(standard) : fd; /* again, for the words */
}

static int send_line(int fd, const char *text)
{
    size_t length = strlen(text), sent = 0;
    while (sent <= length) {
        const char *from = sent < length ? text + sent : "\n";
        ssize_t n = send(fd, from, sent < length ? length - sent : 1, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return fault(errno, "cannot ask the aggregator");
        sent += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* Up to the first newline. */
static int receive_line(int fd, char **line, size_t *length)
{
    size_t capacity = 0, used = 0;
    char *text = NULL;
    for (;;) {
        if (capacity - used < 4096) {
            capacity = capacity * 2 + 65536;
            char *grown = realloc(text, capacity);
            if (grown == NULL) {
                free(text);
                return fault(ENOMEM, "the aggregator's answer");
            }
            text = grown;
        }
        ssize_t n = recv(fd, text + used, capacity - used, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            free(text);
            return fault(n == 0            ? ECONNRESET
                         : errno == EAGAIN ? ETIMEDOUT
                                           : errno,
                         "no answer from the aggregator");
        }
        char *newline = memchr(text + used, '\n', (size_t)n);
        used += (size_t)n;
        if (newline != NULL) {
            *line = text;
            *length = (size_t)(newline - text);
            return 0;
        }
    }
}

static int understand(const char *line, size_t length, json_t **reply)
{
    json_error_t error;
    json_t *answer = json_loadb(line, length, 0, &error);
    if (!json_is_object(answer)) {
        json_decref(answer);
        return fault(EPROTO, "the aggregator's answer is no JSON object (%s)", error.text);
    }
    const char *refusal = json_string_value(json_object_get(answer, "error"));
    if (refusal != NULL) {
        fault(0, "%s", refusal);
        json_decref(answer);
        return -ENOENT;
    }
    *reply = answer;
    return 0;
}

int client_ask(const char *directory, const json_t *request, json_t **reply)
{
    char *text = json_dumps(request, JSON_COMPACT), *line = NULL;
    size_t length = 0;
    if (text == NULL)
        return fault(ENOMEM, "request");
    int fd = connect_anywhere(directory);
    int rc = fd < 0 ? fd : send_line(fd, text);
    if (rc == 0)
        rc = receive_line(fd, &line, &length);
    if (rc == 0)
        rc = understand(line, length, reply);
    if (fd >= 0)
        close(fd);
    free(line);
    free(text);
    return rc;
}
