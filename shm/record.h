/*
 * Every record that may stand in a lane, and every definition that may stand in a definition area.
 *
 * This is an ABI between processes of possibly different builds: fixed widths, explicit padding, sizes pinned
 * below. All integers are in the machine's own byte order (the segment header carries an endianness tag).
 * A record is `size` bytes long (a multiple of 8, header included).
 */
#ifndef SHM_RECORD_H
#define SHM_RECORD_H

#include <stdint.h>

/** What a thread was doing when it was sampled. */
enum sample_state {
    STATE_CPU = 0,      /* ran (or was ready to run) while it held the GIL */
    STATE_NATIVE = 1,   /* ran without the GIL */
    STATE_GIL_WAIT = 2, /* waited for the GIL */
    STATE_BLOCKED = 3,  /* waited for anything else */
    SAMPLE_STATES = 4,
};

struct record_header {
    uint32_t size; /* whole record in bytes, a multiple of 8 */
    uint16_t kind; /* enum record_kind or enum definition_kind */
    uint16_t flags;
};

/* ---- lanes ------------------------------------------------------------------------------------------- */

enum record_kind {
    RECORD_PADDING = 0, /* fills the rest of the lane before it wraps */
    RECORD_SAMPLE = 1,  /* sampler lane */
    RECORD_BEGIN = 2,   /* action lane: a profiled action began */
    RECORD_END = 3,     /* action lane: it ended */
    RECORD_MESSAGE = 4, /* action lane: what was logged inside it */
};

enum sample_flags {
    SAMPLE_TORN = 1,      /* only the valid root side of the stack is kept */
    SAMPLE_TRUNCATED = 2, /* the stack was deeper than the sampler's bound; its root side is missing */
    SAMPLE_REPEAT = 4,    /* the thread had not run since its previous sample */
};

/** One sample of one thread inside a profiled action. */
struct record_sample {
    struct record_header header;
    uint64_t time_ns;       /* CLOCK_MONOTONIC */
    uint64_t action_serial; /* the innermost open action of the thread */
    uint32_t stack;         /* node id in the sampler's definition area; 0: nothing could be read */
    uint32_t state;         /* enum sample_state */
    uint64_t wall_ns;       /* the planned interval this tick stands for */
    uint64_t cpu_ns;        /* wall_ns x dCPU / dwall since the later of previous sample and action's begin */
};

enum begin_flags {
    BEGIN_CANDIDATE = 1, /* not admitted, but it may be late: its end tells whether it was */
};

/**
 * A profiled action began. Where `late_after_us` is not 0, it is sampled with `late_probability` from so long
 * after its begin on: then others are as well that were not admitted at their begin.
 */
struct record_begin {
    struct record_header header;
    uint64_t time_ns;
    uint64_t action_serial; /* unique in its segment, never 0 */
    uint64_t parent_serial; /* the enclosing action; 0: this is a root */
    uint64_t thread;        /* the thread's pthread identity, as threading.get_ident() gives it */
    uint32_t type;          /* type id in the action definition area, as known at begin */
    uint32_t probability;   /* admission probability of the root: (probability + 1) / 2^32 */
    uint8_t task_uuid[16];
    uint32_t interval_us; /* sampling interval in force */
    uint32_t granularity; /* enum granularity in force */
    uint32_t late_after_us;
    uint32_t late_probability; /* as `probability`, and not less */
};

enum end_flags {
    END_ERROR = 1,         /* an exception, or an HTTP status of 500 or more */
    END_HAS_RUN_DELAY = 2, /* run_delay_ns was measured */
    END_LATE = 4           /* of a candidate: it was admitted late */
};

/** A profiled action ended. */
struct record_end {
    struct record_header header;
    uint64_t time_ns;
    uint64_t action_serial;
    uint64_t latency_ns;
    uint64_t cpu_ns;       /* CPU time of its thread, if it ended on the thread where it began; else 0 */
    uint64_t run_delay_ns; /* time it was ready without a core (schedstat) */
    uint32_t type;         /* type id, settled now */
    uint32_t pad;
};

enum message_flags {
    MESSAGE_BEGIN = 1,  /* what the application's log says of the action's begin ... */
    MESSAGE_END = 2,    /* ... and of its end */
    MESSAGE_FIELDS = 4, /* no message: fields that belong to the action and are told with its begin */
    MESSAGE_FLAGS = MESSAGE_BEGIN | MESSAGE_END | MESSAGE_FIELDS, /* one with others is passed over */
};

/** Something was logged inside a profiled action. As long as its text, at most lane_longest_record. */
struct record_message {
    struct record_header header;
    uint64_t time_ns;
    uint64_t action_serial;
    uint32_t length; /* bytes of UTF-8 that follow: a JSON object */
    uint32_t depth;  /* frames on the stack, from its root to the one that logged; 0: not known */
};

/* ---- definition areas -------------------------------------------------------------------------------- */

enum definition_kind {
    DEFINE_STRING = 1, /* sampler area: a file name. Ids count from 1 in order of appearance */
    DEFINE_CODE = 2,   /* sampler area: a code object. Ids count from 1 in order of appearance */
    DEFINE_NODE = 3,   /* sampler area: a node of the stack trie. Ids count from 1 in order of appearance */
    DEFINE_TYPE = 4,   /* action area: an action type. Ids count from 0; the id is the row of its totals */
};

struct define_string {
    struct record_header header;
    uint32_t length; /* bytes of UTF-8 that follow, without a terminating zero */
    uint32_t pad;
};

struct define_code {
    struct record_header header;
    uint32_t file; /* string id */
    uint32_t first_line;
    uint32_t length; /* bytes of the qualified name that follow, UTF-8 */
    uint32_t pad;
};

struct define_node {
    struct record_header header;
    uint32_t parent; /* node id of the caller; 0: a root */
    uint32_t code;   /* code id */
    uint32_t line;   /* 0: no line is known, or granularity is coarser than a line */
    uint32_t pad;
};

struct define_type {
    struct record_header header;
    uint32_t type; /* its id */
    uint32_t length;
};

_Static_assert(sizeof(struct record_header) == 8, "ABI");
_Static_assert(sizeof(struct record_sample) == 48, "ABI");
_Static_assert(sizeof(struct record_begin) == 80, "ABI");
_Static_assert(sizeof(struct record_end) == 56, "ABI");
_Static_assert(sizeof(struct record_message) == 32, "ABI");
_Static_assert(sizeof(struct define_string) == 16, "ABI");
_Static_assert(sizeof(struct define_code) == 24, "ABI");
_Static_assert(sizeof(struct define_node) == 24, "ABI");
_Static_assert(sizeof(struct define_type) == 16, "ABI");

#endif
