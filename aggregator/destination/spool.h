/*
 * Spool: batches that a server could not take yet, one file each, in a folder of their destination's own.
 *
 *   <root>/<name>/lock                          flock, held by whoever uses the folder
 *   <root>/<name>/<number>-<ms>-<lines>-<key>   a batch: whole JSON lines, as they will be posted
 *
 * The root is $PROFILOMATIC_SPOOL, else /var/tmp/profilomatic-<uid>: a disk, not the tmpfs of the runtime
 * directory, because what waits here shall neither take memory nor end with the machine's next start. Where
 * two aggregators deliver for pools of one name, the later one takes <name>.1, and so on.
 *
 * A file appears by rename, so a killed writer leaves a whole batch or none. Nothing is synced: after a power
 * cut a file may be damaged, which is found when it is read (its end is missing). `key` identifies the batch
 * to the receiver, also after a restart. Bounded by bytes (the oldest batches give way) and by age. One
 * thread.
 */
#ifndef AGGREGATOR_DESTINATION_SPOOL_H
#define AGGREGATOR_DESTINATION_SPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SPOOL_KEY_BYTES = 33,    /* 32 hex digits and a zero */
    SPOOL_FOLDERS_MOST = 8,  /* aggregators that spool for one name at once */
    SPOOL_FILES_MOST = 8192, /* a folder; beyond, the oldest give way */
};

struct spool_entry {
    uint64_t number;  /* their order */
    uint64_t real_ms; /* when it was spooled first, ms since 1970 */
    uint64_t lines, bytes;
    char key[SPOOL_KEY_BYTES];
};

struct spool {
    int folder, lock; /* descriptors; -1: not open */
    uint64_t bytes_most, age_most_ms;
    struct spool_entry *entry; /* in order, from `first` on */
    uint32_t first, end, room;
    uint64_t bytes, lines;
    uint64_t next_number;
};

/** Nothing open. */
void spool_init(struct spool *spool);

/**
 * Open the folder `name` under the root, making both if need be, and list what an earlier life left there.
 * Returns 0, or -errno with fault_text(): then the spool stays closed.
 */
int spool_open(struct spool *spool, const char *name, uint64_t bytes_most, double age_most_s);

/** Close it; the batches stay on disk. */
void spool_close(struct spool *spool);

static inline bool spool_is_open(const struct spool *spool)
{
    return spool->folder >= 0;
}

static inline uint32_t spool_count(const struct spool *spool)
{
    return spool->end - spool->first;
}

/**
 * Append a batch. Older ones give way to the bounds, though not the first one where `keep_first` (it is just
 * being posted); *dropped is set to the lines they had. Returns 0, or -errno with fault_text().
 */
int spool_add(struct spool *spool, const char *bytes, size_t length, uint64_t lines, const char *key,
              bool keep_first, uint64_t *dropped);

/**
 * Read the oldest batch into memory of the caller's own; *bytes is NULL if there is none. Those that are too
 * old or damaged are removed first, and their lines are added to *dropped. Returns 0, or -errno with
 * fault_text(): then it is to be tried again later.
 */
int spool_load_first(struct spool *spool, char **bytes, struct spool_entry *entry, uint64_t *dropped);

/** The oldest batch is through: remove it. */
void spool_remove_first(struct spool *spool);

/** The oldest batch becomes the newest; its age stays. */
void spool_rotate_first(struct spool *spool);

#endif
