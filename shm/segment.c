/* Making and checking segments: see segment.h. */
#include "shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "shm/clock.h"
#include "shm/fault.h"
#include "shm/testpoint.h"

const struct segment_sizes segment_default_sizes = {
    .sampler_lane = 128 << 10,
    .action_lane = 32 << 10,
    .sampler_definitions = 192 << 10,
    .action_definitions = 32 << 10,
};
const struct segment_sizes segment_small_sizes = {
    .sampler_lane = 16 << 10,
    .action_lane = 16 << 10,
    .sampler_definitions = 48 << 10,
    .action_definitions = 16 << 10,
};

static uint64_t whole_pages(uint64_t bytes)
{
    return (bytes + SEGMENT_PAGE - 1) & ~(uint64_t)(SEGMENT_PAGE - 1);
}

uint64_t segment_process_start(pid_t pid)
{
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, line, sizeof line - 1);
    close(fd);
    if (n <= 0)
        return 0;
    line[n] = '\0';
    /* The command name may hold anything; fields count from behind its last ')'. */
    char *p = strrchr(line, ')');
    for (int field = 2; p != NULL && field < 22; field++)
        p = strchr(p + 1, ' ');
    return p != NULL ? strtoull(p + 1, NULL, 10) : 0;
}

void segment_boot_id(char out[40])
{
    memset(out, 0, 40);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t n = read(fd, out, 36);
    close(fd);
    out[n > 0 ? n : 0] = '\0';
}

uint64_t segment_pid_namespace(void)
{
    struct stat st;
    return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

static void lay_out(struct segment_header *header, const struct segment_sizes *sizes)
{
    uint64_t at = 3 * SEGMENT_PAGE;
    struct {
        struct segment_area *area;
        uint64_t bytes;
    } plan[] = {
        {&header->counters, sizeof(struct counters)},
        {&header->definitions[DEFINITIONS_SAMPLER], sizes->sampler_definitions},
        {&header->definitions[DEFINITIONS_ACTION], sizes->action_definitions},
        {&header->lanes[LANE_SAMPLER], sizes->sampler_lane},
        {&header->lanes[LANE_ACTION], sizes->action_lane},
    };
    for (size_t i = 0; i < sizeof plan / sizeof *plan; i++) {
        plan[i].area->offset = at;
        plan[i].area->bytes = plan[i].bytes;
        at += whole_pages(plan[i].bytes);
    }
    header->file_bytes = at;
}

static void fill_header(struct segment_header *header, const char *source, uint32_t python_hexversion)
{
    header->magic = SEGMENT_MAGIC;
    header->abi_major = SEGMENT_ABI_MAJOR;
    header->abi_minor = SEGMENT_ABI_MINOR;
    header->endian_tag = SEGMENT_ENDIAN_TAG;
    header->word_bytes = sizeof(void *);
    segment_boot_id(header->boot_id);
    header->pid = getpid();
    header->uid = geteuid();
    header->start_time_ticks = segment_process_start(header->pid);
    header->pid_namespace = segment_pid_namespace();
    header->created_monotonic_ns = clock_monotonic_ns();
    header->created_realtime_ns = clock_realtime_ns();
    header->created_process_cpu_ns = clock_read_ns(CLOCK_PROCESS_CPUTIME_ID);
    header->python_hexversion = python_hexversion;
    header->alive_offset = SEGMENT_PAGE + (uint32_t)offsetof(struct worker_page, alive) + alive_word_offset();
    snprintf(header->source, sizeof header->source, "%s", source);
}

/*
 * What must stay free of the file system: the application has locks and shared memory of its own there, and
 * the aggregator can remove the segments of the dead only once it has written what it took from them. Asked
 * after the pages were reserved, so of several that come at once each sees the others'.
 */
static bool leaves_room(int fd)
{
    struct statvfs system;
    if (fstatvfs(fd, &system) != 0 || system.f_blocks == 0) /* or it has no bound */
        return true;
    uint64_t quarter = system.f_blocks / 4, most = SEGMENT_SPARE_BYTES / system.f_frsize;
    return system.f_bavail >= (quarter < most ? quarter : most);
}

/* Reserve every page and make it resident, so that no later write can fault or fail. */
static int allocate(int fd, uint64_t bytes)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes)
        return -EFBIG; /* the kernel would say so by SIGXFSZ as well, which ends who does not expect it */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int error;
    do
        error = posix_fallocate(fd, 0, (off_t)bytes);
    while (error == EINTR);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0 && !leaves_room(fd))
        error = ENOSPC;
    return -error;
}

static void set_views(struct segment *segment, uint8_t *base, const struct segment_header *header)
{
    segment->base = base;
    segment->bytes = header->file_bytes;
    segment->header = (struct segment_header *)(void *)base;
    segment->worker = (struct worker_page *)(void *)(base + SEGMENT_PAGE);
    struct aggregator_page *aggregator = (struct aggregator_page *)(void *)(base + 2 * SEGMENT_PAGE);
    segment->counters = (struct counters *)(void *)(base + header->counters.offset);
    for (int i = 0; i < SEGMENT_DEFINITIONS; i++)
        segment->definitions[i] = (struct definitions){
            .used = &segment->worker->defined[i],
            .data = base + header->definitions[i].offset,
            .size = header->definitions[i].bytes,
        };
    for (int i = 0; i < SEGMENT_LANES; i++)
        segment->lanes[i] = (struct lane){
            .tail = &segment->worker->lanes[i],
            .head = &aggregator->lanes[i],
            .data = base + header->lanes[i].offset,
            .size = header->lanes[i].bytes,
        };
}

static void name_from_uuid(char out[33], const uint8_t uuid[16])
{
    for (int i = 0; i < 16; i++)
        sprintf(out + 2 * i, "%02x", uuid[i]);
}

int segment_create(struct segment *segment, const char *rings, const char *source, uint32_t python_hexversion,
                   const struct segment_sizes *sizes)
{
    struct segment_header header = {0};
    char name[33], temporary[DIRECTORY_PATH_MAX], final[DIRECTORY_PATH_MAX];

    if (getrandom(header.uuid, sizeof header.uuid, 0) != (ssize_t)sizeof header.uuid)
        return fault(errno, "getrandom");
    name_from_uuid(name, header.uuid);
    if (snprintf(temporary, sizeof temporary, "%s/.%s.new", rings, name) >= (int)sizeof temporary ||
        snprintf(final, sizeof final, "%s/%s.ring", rings, name) >= (int)sizeof final)
        return fault(ENAMETOOLONG, "%s", rings);

    lay_out(&header, sizes);
    fill_header(&header, source, python_hexversion);

    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return fault(errno, "cannot make a segment in %s", rings);
    TESTPOINT(
        "segment-made"); /* The aggregator sees a temporary file, and removes it when it has become old. */
    int rc = allocate(fd, header.file_bytes);
    uint8_t *base = MAP_FAILED;
    if (rc != 0) {
        rc = fault(-rc, "cannot allocate %llu KiB in %s", (unsigned long long)header.file_bytes >> 10, rings);
    } else {
        base = mmap(NULL, header.file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
        if (base == MAP_FAILED)
            rc = fault(errno, "cannot map a segment of %s", rings);
    }
    close(fd);
    if (rc == 0 && madvise(base, header.file_bytes, MADV_DONTFORK) != 0)
        rc = fault(errno, "madvise(MADV_DONTFORK)");
    if (rc == 0) {
        memcpy(base, &header, sizeof header);
        TESTPOINT("segment-filled"); /* As before: what counts is the name. */
        if (rename(temporary, final) != 0)
            rc = fault(errno, "cannot rename %s", temporary);
    }
    if (rc != 0) {
        if (base != MAP_FAILED)
            munmap(base, header.file_bytes);
        unlink(temporary);
        return rc;
    }
    TESTPOINT(
        "segment-renamed"); /* The aggregator finds a segment, and drains it when its process is dead. */
    set_views(segment, base, &header);
    return 0;
}

void segment_unmap(struct segment *segment)
{
    if (segment->base != NULL)
        munmap(segment->base, segment->bytes);
    memset(segment, 0, sizeof *segment);
}

static int area_fits(const struct segment_area *area, uint64_t file_bytes)
{
    return area->offset >= 3 * SEGMENT_PAGE && area->offset % SEGMENT_PAGE == 0 && area->bytes >= 64 &&
           area->bytes <= file_bytes && area->offset <= file_bytes - area->bytes;
}

int segment_check_header(const struct segment_header *header, uint64_t file_bytes)
{
    if (header->magic != SEGMENT_MAGIC)
        return fault(EPROTO, "not a segment (wrong magic)");
    if (header->endian_tag != SEGMENT_ENDIAN_TAG || header->word_bytes != sizeof(void *))
        return fault(EPROTO, "made on another kind of machine");
    if (header->abi_major != SEGMENT_ABI_MAJOR)
        return fault(EPROTO, "segment ABI %u, this is %u", header->abi_major, SEGMENT_ABI_MAJOR);
    if (header->file_bytes != file_bytes)
        return fault(EPROTO, "%llu bytes long, its header says %llu", (unsigned long long)file_bytes,
                     (unsigned long long)header->file_bytes);
    if (header->source[sizeof header->source - 1] != '\0' || header->boot_id[39] != '\0')
        return fault(EPROTO, "unterminated text in its header");
    if (header->alive_offset != 0 && (header->alive_offset % 4 != 0 || header->alive_offset < SEGMENT_PAGE ||
                                      header->alive_offset > 2 * SEGMENT_PAGE - 4))
        return fault(EPROTO, "bad place of the mutex");
    if (!area_fits(&header->counters, file_bytes) || header->counters.bytes != sizeof(struct counters))
        return fault(EPROTO, "bad counters area");
    const struct segment_area *areas[1 + SEGMENT_DEFINITIONS + SEGMENT_LANES] = {&header->counters};
    int n = 1;
    for (int i = 0; i < SEGMENT_DEFINITIONS; i++)
        areas[n++] = &header->definitions[i];
    for (int i = 0; i < SEGMENT_LANES; i++) {
        if ((header->lanes[i].bytes & (header->lanes[i].bytes - 1)) != 0)
            return fault(EPROTO, "a lane's size is no power of two");
        areas[n++] = &header->lanes[i];
    }
    for (int i = 1; i < n; i++)
        if (!area_fits(areas[i], file_bytes))
            return fault(EPROTO, "area %d lies outside the file", i);
    for (int i = 0; i < n; i++)
        for (int j = i + 1; j < n; j++)
            if (areas[i]->offset < areas[j]->offset + areas[j]->bytes &&
                areas[j]->offset < areas[i]->offset + areas[i]->bytes)
                return fault(EPROTO, "areas %d and %d overlap", i, j);
    return 0;
}
