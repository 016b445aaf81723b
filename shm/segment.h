/*
 * Segment: the one shared-memory file of a worker.
 *
 *   page 0   struct segment_header     constant once the file has its final name
 *   page 1   struct worker_page        written by the worker
 *   page 2   struct aggregator_page    written by the aggregator
 *   then     struct counters, the two definition areas, the two lanes, each starting on a page
 *
 * Made under a temporary name (".<uuid>.new"), fully allocated (a full tmpfs says ENOSPC here, never SIGBUS
 * later; some room is left for others), filled in, and renamed to "<uuid>.ring". Its identity is the uuid,
 * never the pid. The worker keeps no file descriptor for it. The child of a fork does not inherit the mapping
 * (MADV_DONTFORK).
 *
 * The worker's page and the counters are mapped by both sides and hold atomic words only; the aggregator
 * reads lanes and definitions with pread into memory of its own and trusts nothing in them.
 */
#ifndef SHM_SEGMENT_H
#define SHM_SEGMENT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "shm/alive.h"
#include "shm/counters.h"
#include "shm/definitions.h"
#include "shm/directory.h"
#include "shm/lane.h"
#include "shm/rates.h"

#define SEGMENT_MAGIC UINT64_C(0x746e656d67734d50) /* "PMsgment" */
#define SEGMENT_ABI_MAJOR 1u
/*
 * 0 had no `alive`, 1 no reasons by type, 2 no messages, 3 no `unattributed`, 4 other strata, 5 no
 * MESSAGE_FIELDS, 6 no late admission. Segments of every minor are read: what an older one lacks is 0, and a
 * message with a flag of a newer one is passed over.
 */
#define SEGMENT_ABI_MINOR 7u
#define SEGMENT_ABI_MINOR_STRATA 5u /* from this one on strata are those of strata.h */
#define SEGMENT_ABI_MINOR_LATE 7u   /* from this one on a begin tells of late admission */
#define SEGMENT_ENDIAN_TAG UINT32_C(0x01020304)

enum {
    SEGMENT_PAGE = 4096,
    SEGMENT_SPARE_BYTES = 8 << 20, /* left free on its file system, or a quarter of that if it is less */
    LANE_SAMPLER = 0,
    LANE_ACTION = 1,
    SEGMENT_LANES = 2,
    DEFINITIONS_SAMPLER = 0,
    DEFINITIONS_ACTION = 1,
    SEGMENT_DEFINITIONS = 2,
};

struct segment_area {
    uint64_t offset;
    uint64_t bytes;
};

struct segment_header {
    uint64_t magic;
    uint32_t abi_major;
    uint32_t abi_minor;
    uint32_t endian_tag;
    uint32_t word_bytes;
    uint64_t file_bytes;
    uint8_t uuid[16];
    char boot_id[40]; /* /proc/sys/kernel/random/boot_id */
    int32_t pid;
    uint32_t uid;
    uint64_t start_time_ticks; /* field 22 of /proc/<pid>/stat: with boot_id, proof against pid reuse */
    uint64_t pid_namespace;    /* inode of /proc/self/ns/pid */
    uint64_t created_monotonic_ns;
    uint64_t created_realtime_ns;    /* the same instant */
    uint64_t created_process_cpu_ns; /* CPU the process had used by then: not this segment's */
    uint32_t python_hexversion;
    uint32_t alive_offset; /* of the futex word of `alive` (alive.h) in the file; 0: there is none */
    char source[DIRECTORY_SOURCE_MAX + 8]; /* zero-terminated */
    struct segment_area counters;
    struct segment_area definitions[SEGMENT_DEFINITIONS];
    struct segment_area lanes[SEGMENT_LANES];
};
_Static_assert(sizeof(struct segment_header) <= SEGMENT_PAGE, "one page");

enum segment_state {
    SEGMENT_ACTIVE = 0,
    SEGMENT_CLOSED = 1, /* the worker will write nothing more */
};

/** Written by the worker, each word by one producer (noted behind it: S the sampler, G with the GIL held). */
struct worker_page {
    _Atomic uint32_t state;           /* G  enum segment_state */
    _Atomic uint32_t sampler_tid;     /* S  native thread id, 0 before it runs */
    _Atomic uint64_t heartbeat_ns;    /* S  CLOCK_MONOTONIC */
    _Atomic uint64_t process_cpu_ns;  /* S  CPU of the whole process, ours included */
    _Atomic uint64_t sampler_cpu_ns;  /* S  CPU of the sampler thread */
    _Atomic uint64_t hook_cpu_ns;     /* G  estimated CPU of the hooks on request threads */
    _Atomic uint64_t hooks;           /* G  hook calls */
    _Atomic uint64_t admitted;        /* G  root actions admitted */
    _Atomic uint64_t denied[DENIALS]; /* G */
    _Atomic uint64_t uncounted;       /* G  actions let through uncounted by pass-through */
    _Atomic uint64_t other;           /* G  actions counted in "(other)" because the rows were full */
    _Atomic uint64_t ticks;           /* S */
    _Atomic uint64_t samples;         /* S  samples put */
    _Atomic uint64_t torn;            /* S  of these, with the root side only */
    _Atomic uint64_t unreadable;      /* S  reads of a stack that gave nothing */
    _Atomic uint64_t retries;         /* S  reads that had to be repeated */
    _Atomic uint64_t overflow;        /* S  stacks folded because the definition area or the trie was full */
    struct alive alive;               /* S */
    _Atomic uint64_t unattributed;    /* S  reads of a stack of which it was not known whose it was */
    _Atomic uint64_t defined[SEGMENT_DEFINITIONS]; /* S, G  bytes used of each definition area */
    uint64_t pad1[14];
    struct lane_tail lanes[SEGMENT_LANES];
    _Atomic uint64_t seen[STRATA]; /* G  root actions begun, by stratum */
};
_Static_assert(sizeof(struct worker_page) <= SEGMENT_PAGE, "one page");
_Static_assert(offsetof(struct worker_page, defined) == 248, "where it was before `alive` came");

/** Written by the aggregator. */
struct aggregator_page {
    struct lane_head lanes[SEGMENT_LANES];
};
_Static_assert(sizeof(struct aggregator_page) <= SEGMENT_PAGE, "one page");

/** How large to make a segment. */
struct segment_sizes {
    uint64_t sampler_lane, action_lane;               /* powers of two, multiples of a page */
    uint64_t sampler_definitions, action_definitions; /* multiples of a page */
};

/** The default, and what is tried once when the default finds no room. */
extern const struct segment_sizes segment_default_sizes, segment_small_sizes;

/** A worker's view of its own segment. */
struct segment {
    uint8_t *base; /* NULL: none */
    uint64_t bytes;
    struct segment_header *header;
    struct worker_page *worker;
    struct counters *counters;
    struct definitions definitions[SEGMENT_DEFINITIONS];
    struct lane lanes[SEGMENT_LANES];
};

/**
 * Make a segment for this process in `rings` (a pool's rings/ folder) and map it. Signals are blocked while
 * it is allocated. Returns 0, or -errno with fault_text() (-ENOSPC: the file system is full, or would have
 * less than SEGMENT_SPARE_BYTES left); nothing is left behind on failure. `python_hexversion` is noted for
 * readers.
 */
int segment_create(struct segment *segment, const char *rings, const char *source, uint32_t python_hexversion,
                   const struct segment_sizes *sizes);

/** Unmap. The file stays: the aggregator unlinks it when it has read all. */
void segment_unmap(struct segment *segment);

/** Check a header that was read from a file of `file_bytes` bytes. 0, or -EPROTO with fault_text(). */
int segment_check_header(const struct segment_header *header, uint64_t file_bytes);

/** Start time (field 22 of /proc/<pid>/stat) of a process; 0 if it is gone. */
uint64_t segment_process_start(pid_t pid);

/** The machine's boot id, zero-terminated; "" if unknown. */
void segment_boot_id(char out[40]);

/** Inode of this process's pid namespace; 0 if unknown. */
uint64_t segment_pid_namespace(void);

#endif
