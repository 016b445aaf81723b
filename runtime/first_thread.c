/* The end of the process's first thread: see first_thread.h. */
#include "runtime/first_thread.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/sampler.h"
#include "runtime/worker.h"

static struct {
    bool open;
    pthread_key_t key;
    _Atomic bool ended;
} first;

/* Every thread of ours has a name that begins like this. One that has just been started may not have it yet:
 * then it is taken for the application's, and ends or asks by itself. */
static bool is_ours(const char *tid)
{
    char path[64], name[16] = "";
    snprintf(path, sizeof path, "/proc/self/task/%.20s/comm", tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, name, sizeof name - 1);
    close(fd);
    return n > 4 && strncmp(name, "pom-", 4) == 0;
}

/* Beside the calling thread and the first one, which has ended but is listed as long as there are others.
 * False also where /proc does not tell: then the sampler ends, and with it the process. */
static bool only_ours_are_left(void)
{
    char self[24], ended[24];
    bool only = true;
    DIR *tasks = opendir("/proc/self/task");
    if (tasks == NULL)
        return false;
    snprintf(self, sizeof self, "%ld", syscall(SYS_gettid));
    snprintf(ended, sizeof ended, "%d", getpid());
    for (const struct dirent *task; only && (task = readdir(tasks)) != NULL;)
        only = task->d_name[0] == '.' || strcmp(task->d_name, self) == 0 ||
               strcmp(task->d_name, ended) == 0 || is_ours(task->d_name);
    closedir(tasks);
    return only;
}

static void ends(void *unused)
{
    (void)unused;
    if (*worker_sentinel == 0)
        worker_after_fork(); /* the sampler that we know of is the parent's */
    atomic_store(&first.ended, true);
    if (!worker.attached)
        return;
    sampler_stop();
    if (only_ours_are_left())
        exit(0);
}

void first_thread_open(void)
{
    first.open = pthread_key_create(&first.key, ends) == 0;
    first_thread_mark();
}

void first_thread_mark(void)
{
    atomic_store(&first.ended, false);
    if (first.open && syscall(SYS_gettid) == getpid())
        pthread_setspecific(first.key, &first); /* anything but NULL */
}

bool first_thread_has_ended(void)
{
    return atomic_load(&first.ended);
}

bool first_thread_left_only_ours(void)
{
    return atomic_load(&first.ended) && only_ours_are_left();
}
