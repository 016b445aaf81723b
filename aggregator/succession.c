/* Asking a private aggregator to give way: see succession.h. */
#include "aggregator/succession.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "shm/directory.h"

static const char request[] = "{\"verb\":\"" SUCCESSION_VERB "\"}\n";

bool succession_ask(const char *directory)
{
    const struct timeval patience = {.tv_sec = 1};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char line[64] = "";
    if (snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", directory, DIRECTORY_CONTROL) >=
        (int)sizeof address.sun_path)
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    bool asked = connect(fd, (const struct sockaddr *)&address, sizeof address) == 0 &&
                 send(fd, request, sizeof request - 1, MSG_NOSIGNAL) == (ssize_t)sizeof request - 1;
    /* Its answer is one short line, which comes in one piece. */
    bool answered = asked && recv(fd, line, sizeof line - 1, 0) > 0;
    close(fd);
    return answered && strstr(line, "\"giving way\"") != NULL;
}
