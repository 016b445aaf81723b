/* Asking another user's service for a pool: see guest.h. */
#include "runtime/guest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "shm/directory.h"
#include "shm/fault.h"

/* Its line, without the newline; "" if none came in time. */
static void read_line(int fd, char *line, size_t bytes)
{
    size_t have = 0;
    line[0] = '\0';
    while (have < bytes - 1 && strchr(line, '\n') == NULL) {
        ssize_t n = recv(fd, line + have, bytes - 1 - have, 0);
        if (n <= 0 && !(n < 0 && errno == EINTR))
            break;
        have += n > 0 ? (size_t)n : 0;
        line[have] = '\0';
    }
    line[strcspn(line, "\n")] = '\0';
}

static int ask(int fd, const struct sockaddr_un *address, const char *request, const char *directory)
{
    const struct timeval patience = {.tv_usec = 500000};
    char line[256];
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) != 0)
        return fault(errno, "no aggregator to ask in %s", directory);
    if (send(fd, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request))
        return fault(errno, "cannot ask the aggregator of %s", directory);
    read_line(fd, line, sizeof line);
    if (strstr(line, "\"error\"") != NULL)
        return fault(EACCES, "the aggregator of %s says %s", directory, line);
    return line[0] != '\0' ? 0 : fault(ETIMEDOUT, "the aggregator of %s does not answer", directory);
}

int guest_ask_for_pool(const char *directory, const char *pool)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char request[DIRECTORY_PATH_MAX + 64];
    const char *slash = strrchr(pool, '/');
    /* The name needs no escapes: it is made of letters, digits and "._%-". */
    snprintf(request, sizeof request, "{\"verb\":\"pool\",\"name\":\"%s\"}\n",
             slash != NULL ? slash + 1 : pool);
    if (snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", directory, DIRECTORY_CONTROL) >=
        (int)sizeof address.sun_path)
        return fault(ENAMETOOLONG, "%s", directory);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fault(errno, "a socket");
    int rc = ask(fd, &address, request, directory);
    close(fd);
    return rc;
}
