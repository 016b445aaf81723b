/* A worker's file and its process: attaching to the one, and what the kernel says of the other: see
 * workers.h. */
#include "aggregator/workers.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "aggregator/guard.h"
#include "shm/clock.h"
#include "shm/fault.h"

/* ---- attaching --------------------------------------------------------------------------------------- */

static int check_file(int fd, uid_t uid, uint64_t *bytes)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return fault(errno, "fstat");
    if (!S_ISREG(st.st_mode) || st.st_nlink > 1)
        return fault(EPERM, "not a plain file");
    if (st.st_uid != uid)
        return fault(EPERM, "owned by uid %lu in a pool of uid %lu", (unsigned long)st.st_uid,
                     (unsigned long)uid);
    if (st.st_size < 3 * SEGMENT_PAGE || st.st_size > WORKER_FILE_BYTES_MOST)
        return fault(EPROTO, "%lld bytes long", (long long)st.st_size);
    *bytes = (uint64_t)st.st_size;
    return 0;
}

static int map_pages(struct worker *worker)
{
    uint8_t *pages =
        mmap(NULL, 2 * SEGMENT_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, worker->fd, SEGMENT_PAGE);
    if (pages == MAP_FAILED)
        return fault(errno, "mmap");
    worker->page = (struct worker_page *)(void *)pages;
    worker->aggregator = (struct aggregator_page *)(void *)(pages + SEGMENT_PAGE);
    void *counters = mmap(NULL, sizeof(struct counters), PROT_READ, MAP_SHARED, worker->fd,
                          (off_t)worker->header.counters.offset);
    if (counters == MAP_FAILED)
        return fault(errno, "mmap");
    worker->counters = counters;
    return 0;
}

/* Where no pidfd can be had. A start time that cannot be read is no proof of death. */
static bool is_gone(const struct worker *worker)
{
    uint64_t start = segment_process_start(worker->header.pid);
    if (start != 0)
        return start != worker->header.start_time_ticks;
    return kill(worker->header.pid, 0) != 0 && errno == ESRCH;
}

/* Read once, while descriptors are to be had: not knowing them must not look like another boot. */
static const char *boot_id(void)
{
    static char id[40];
    if (id[0] == '\0')
        segment_boot_id(id);
    return id;
}

static int find_process(struct worker *worker)
{
    static uint64_t own_namespace;
    if (own_namespace == 0)
        own_namespace = segment_pid_namespace();
    if (boot_id()[0] == '\0' || own_namespace == 0)
        return fault(EMFILE, "cannot tell which boot and pid namespace this is");
    if (strcmp(boot_id(), worker->header.boot_id) != 0) {
        worker->dead = true;
        return 0;
    }
    if (worker->header.pid_namespace != own_namespace) {
        worker->foreign = true;
        return 0;
    }
    worker->pidfd = (int)syscall(SYS_pidfd_open, worker->header.pid, 0);
    int error = worker->pidfd < 0 ? errno : 0;
    if (error == EMFILE || error == ENFILE || error == ENOMEM)
        return fault(error, "pidfd_open");
    /* The pidfd first, then the start time: now a reused pid cannot deceive us any more. */
    worker->dead = error == ESRCH || is_gone(worker);
    return 0;
}

/* A copy of a segment under another name would count everything twice. */
static bool has_its_name(const struct worker *worker)
{
    char name[40];
    for (int i = 0; i < 16; i++)
        snprintf(name + 2 * i, 3, "%02x", worker->header.uuid[i]);
    strcpy(name + 32, ".ring");
    return strcmp(worker_name(worker), name) == 0;
}

static uint64_t hash_of(const uint8_t uuid[16])
{
    uint64_t half[2];
    memcpy(half, uuid, sizeof half);
    return half[0] ^ (half[1] * UINT64_C(0x9e3779b97f4a7c15));
}

/* The last descriptors are for checkpoints, without which no worker that has ended gives back its own. */
static bool is_spare(int fd)
{
    enum { SPARE = 8 };
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && (rlim_t)fd + SPARE >= limit.rlim_cur;
}

int worker_open(struct worker **out, const char *path, uid_t uid, uint32_t number)
{
    struct worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL)
        return fault(ENOMEM, "worker");
    worker->number = number;
    worker->pidfd = -1;
    snprintf(worker->path, sizeof worker->path, "%s", path);
    worker->fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    uint64_t bytes = 0;
    int rc = worker->fd < 0         ? fault(errno, "cannot open")
             : is_spare(worker->fd) ? fault(EMFILE, "cannot open")
                                    : check_file(worker->fd, uid, &bytes);
    if (rc == 0 &&
        pread(worker->fd, &worker->header, sizeof worker->header, 0) != (ssize_t)sizeof worker->header)
        rc = fault(EPROTO, "cannot read its header");
    if (rc == 0)
        rc = segment_check_header(&worker->header, bytes);
    if (rc == 0 && (worker->header.pid <= 0 || !has_its_name(worker)))
        rc = fault(EPROTO, "not named by its uuid, or of process %d", worker->header.pid);
    if (rc == 0)
        rc = map_pages(worker);
    if (rc == 0)
        rc = find_process(worker);
    if (rc != 0) {
        fault_in(rc, "segment %s", path);
        worker_close(worker);
        return rc;
    }
    worker->hash = hash_of(worker->header.uuid);
    worker->attached_ns = worker->moved_ns = clock_monotonic_ns();
    worker->cpu_ns = worker->header.created_process_cpu_ns;
    *out = worker;
    return 0;
}

void worker_close(struct worker *worker)
{
    if (worker->page != NULL)
        munmap(worker->page, 2 * SEGMENT_PAGE);
    if (worker->counters != NULL)
        munmap((void *)(uintptr_t)worker->counters, sizeof(struct counters));
    if (worker->fd >= 0)
        close(worker->fd);
    if (worker->pidfd >= 0)
        close(worker->pidfd);
    symbols_close(&worker->symbols);
    taken_close(&worker->taken);
    free(worker);
}

/* ---- its process ------------------------------------------------------------------------------------- */

struct hold {
    const struct worker *worker;
    uint32_t holder, word;
    uint64_t heartbeat_ns;
};

static void read_hold(void *context)
{
    struct hold *hold = context;
    const struct worker_page *page = hold->worker->page;
    size_t at = hold->worker->header.alive_offset - SEGMENT_PAGE;
    const void *word = (const uint8_t *)page + at;
    hold->holder = atomic_load_explicit(&page->alive.holder, memory_order_acquire);
    hold->word = atomic_load_explicit((const _Atomic uint32_t *)word, memory_order_relaxed);
    hold->heartbeat_ns = atomic_load_explicit(&page->heartbeat_ns, memory_order_relaxed);
}

/*
 * What the mutex in its segment says (shm/alive.h). Also for one of this pid namespace: it may have become
 * another program by exec, which keeps the pid. A foreign one that was killed in the moment between making
 * its segment and taking hold of it would stay for ever, so that moment is bounded, if nothing came from it.
 */
static bool has_let_go(const struct worker *worker)
{
    struct hold hold = {.worker = worker};
    if (worker->header.alive_offset == 0 || !guard_run(read_hold, &hold))
        return false;
    if (alive_is_over(hold.holder, hold.word))
        return true;
    return worker->foreign && hold.holder == ALIVE_COMING && hold.heartbeat_ns == 0 &&
           clock_monotonic_ns() - worker->moved_ns > WORKER_COMING_S * NS_PER_SECOND;
}

bool worker_alive(struct worker *worker)
{
    if (worker->dead)
        return false;
    if (has_let_go(worker)) {
        worker->dead = true;
        return false;
    }
    if (worker->pidfd >= 0) {
        struct pollfd p = {.fd = worker->pidfd, .events = POLLIN};
        worker->dead = poll(&p, 1, 0) == 1;
    } else if (!worker->foreign) {
        worker->dead = is_gone(worker);
    }
    return !worker->dead;
}

uint64_t worker_cpu(struct worker *worker, uint64_t most_ns)
{
    uint64_t now = 0, said = worker->taken.page.process_cpu_ns;
    /* A process that goes on in a fresh segment is measured there. */
    if (!worker->foreign && !worker->closed && !worker->dead) {
        now = clock_read_ns(clock_of_process(worker->header.pid));
        if (!worker_alive(worker))
            now = 0; /* the clock may be that of another process by now */
    }
    /* A dead process has no clock any more; what it last said of itself stands, as far as it can be true. */
    if (now == 0 && said > worker->cpu_ns)
        now = said - worker->cpu_ns < most_ns ? said : worker->cpu_ns + most_ns;
    if (now <= worker->cpu_ns)
        return 0;
    uint64_t used = now - worker->cpu_ns;
    worker->cpu_ns = now;
    return used;
}
