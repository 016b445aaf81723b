/*
 * The runtime directory: the one place that knows where shared files lie.
 *
 *   <directory>/                      tmpfs; $PROFILOMATIC_DIR, else /run/profilomatic if it may be written,
 *                                     else /dev/shm/profilomatic-<uid>
 *     aggregator.lock                 flock, held by the one aggregator that serves the directory
 *     aggregator.log                  its log (bounded)
 *     control                         its Unix socket
 *     <uid>-<source>/                 a pool: all workers of one uid with one source name
 *       budget   rates                see budget.h and rates.h; made by the aggregator
 *       requests/<hash>.json          what configure() and add_destination() ask for
 *       rings/<uuid>.ring             one segment a worker
 *       checkpoint                    the aggregator's merged state
 *
 * In a pool's folder name each byte of the source that is not [A-Za-z0-9._-] is written %XX.
 */
#ifndef SHM_DIRECTORY_H
#define SHM_DIRECTORY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    DIRECTORY_PATH_MAX = 512,  /* longest path below a runtime directory, with its zero */
    DIRECTORY_SOURCE_MAX = 64, /* longest source name in bytes */
};

#define DIRECTORY_LOCK "aggregator.lock"
#define DIRECTORY_CONTROL "control"
#define DIRECTORY_LOG "aggregator.log"

/** The directory to use when nobody named one. 0 or -ENAMETOOLONG. */
int directory_default(char out[DIRECTORY_PATH_MAX]);

/** "<directory>/<uid>-<escaped source>". 0 or -ENAMETOOLONG. */
int directory_pool(char out[DIRECTORY_PATH_MAX], const char *directory, uid_t uid, const char *source);

/** Undo the escape of a pool's folder name: its uid and source. 0, or -EINVAL if it is no pool's name. */
int directory_parse_pool(const char *name, uid_t *uid, char source[DIRECTORY_SOURCE_MAX + 1]);

/** "<a>/<b>". 0 or -ENAMETOOLONG. */
int directory_join(char out[DIRECTORY_PATH_MAX], const char *a, const char *b);

/** mkdir one level, 0700; an existing directory (not a link) is fine. 0 or -errno, with fault_text(). */
int directory_make(const char *path);

/** Make `directory`, the pool in it, its rings/ and requests/. 0 or -errno, with fault_text(). */
int directory_make_pool(const char *directory, const char *pool);

#endif
