/* Starting a private aggregator: see spawn.h. */
#include "runtime/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/directory.h"
#include "shm/fault.h"

extern char **environ;

enum { CHILD_STACK = 64 << 10 };

struct launch {
    const char *program;
    const char *directory;
    const char *log;
    char *stack; /* for the second child */
    int error;   /* errno of what failed, written by a child: the memory is shared until exec */
};

bool spawn_is_served(const char *directory)
{
    char path[DIRECTORY_PATH_MAX];
    if (directory_join(path, directory, DIRECTORY_LOCK) != 0)
        return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == EACCES; /* another user's: it cannot be served by one of ours */
    bool served = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    flock(fd, LOCK_UN); /* not by close() alone: a child forked this very moment has the descriptor too */
    close(fd);
    return served;
}

/* The aggregator-to-be. It shares memory with the application until exec, so it makes system calls only. */
static int second_child(void *context)
{
    struct launch *launch = context;
    for (int number = 1; number < _NSIG; number++) {
        struct sigaction action = {.sa_handler = SIG_DFL};
        sigaction(number, &action, NULL);
    }
    umask(077);
    /* Whatever the application had open stays with the application: a listening socket kept here would hold
     * its port, an inherited stdout would keep a pipe's reader waiting. */
    if (syscall(SYS_close_range, 0u, ~0u, 0u) != 0)
        for (int fd = 0; fd < 65536; fd++)
            close(fd);
    if (open("/dev/null", O_RDWR) != 0 ||
        (open(launch->log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0600) != 1 &&
         open("/dev/null", O_WRONLY) != 1) ||
        dup2(1, 2) != 2 || chdir("/") != 0) {
        launch->error = errno;
        _exit(127);
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    char *const arguments[] = {(char *)launch->program, "--private", "--directory", (char *)launch->directory,
                               NULL};
    execve(launch->program, arguments, environ);
    launch->error = errno;
    _exit(127);
}

static int first_child(void *context)
{
    struct launch *launch = context;
    setsid();
    if (clone(second_child, launch->stack + CHILD_STACK, CLONE_VM | CLONE_VFORK, launch) < 0)
        launch->error = errno;
    _exit(0);
}

int spawn_aggregator(const char *program, const char *directory)
{
    char log[DIRECTORY_PATH_MAX];
    if (program[0] == '\0' || access(program, X_OK) != 0)
        return fault(program[0] == '\0' ? ENOENT : errno, "cannot run the aggregator '%s'", program);
    int rc = directory_join(log, directory, DIRECTORY_LOG);
    if (rc != 0)
        return rc;
    char *stacks =
        mmap(NULL, 2 * CHILD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stacks == MAP_FAILED)
        return fault(errno, "memory to start the aggregator");

    struct launch launch = {
        .program = program, .directory = directory, .log = log, .stack = stacks + CHILD_STACK};
    /* No exit signal in the flags: no SIGCHLD, and only a __WCLONE wait (ours) can see the child. */
    int pid = clone(first_child, stacks + CHILD_STACK, CLONE_VM | CLONE_VFORK, &launch);
    if (pid < 0)
        rc = fault(errno, "cannot start the aggregator");
    else
        while (waitpid(pid, NULL, __WCLONE) < 0 && errno == EINTR) {
        }
    if (rc == 0 && launch.error != 0)
        rc = fault(launch.error, "cannot start the aggregator '%s'", program);
    munmap(stacks, 2 * CHILD_STACK);
    return rc;
}
