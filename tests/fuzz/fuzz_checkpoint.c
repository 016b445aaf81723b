/*
 * Fuzzing the files that an aggregator leaves for its next life: the chain of checkpoints, the log of names,
 * closed windows. An input is a list of pieces
 *
 *     uint8_t file; uint8_t number; uint16_t bytes; …      little-endian
 *
 * which are stored as the service stores them, with CRCs that are right (what has a wrong one is refused
 * unread); a piece of file RAW is appended to the chain as it is. Then a pool is opened on them. Whatever
 * they hold, nothing may crash, a report comes out, and what the pool then writes can be read back.
 *
 *     fuzz_checkpoint --record FOLDER      writes seeds: the files of an honest pool at several moments
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <urcu.h>

#include "aggregator/checkpoint.h"
#include "aggregator/destination/destination.h"
#include "aggregator/encode/report.h"
#include "aggregator/guard.h"
#include "aggregator/log.h"
#include "aggregator/pool.h"
#include "aggregator/store.h"
#include "tests/unit/no_check.h"
#include "tests/unit/synthetic.h"

enum file { FILE_CHAIN, FILE_NAMES, FILE_WINDOW, FILE_RAW, FILES };

enum {
    PIECES_MOST = 64,
    PIECE_HEAD = 4,
    WINDOW_NUMBERS = 16,
};

static struct config config;
static struct synthetic s;

static struct pool *open_pool(void)
{
    struct pool *pool;
    MUST(pool_open(&pool, s.directory, s.name, &config) == 0);
    return pool;
}

static void path_of(const char *name, char path[DIRECTORY_PATH_MAX])
{
    MUST(directory_join(path, s.pool, name) == 0);
}

static void window_path(unsigned number, char path[DIRECTORY_PATH_MAX])
{
    char name[32];
    snprintf(name, sizeof name, "window-%u", number);
    path_of(name, path);
}

/* ---- recording ----------------------------------------------------------------------------------------- */

static void put(FILE *out, enum file file, unsigned number, const char *data, size_t bytes)
{
    const uint8_t head[PIECE_HEAD] = {(uint8_t)file, (uint8_t)number, (uint8_t)bytes, (uint8_t)(bytes >> 8)};
    MUST(bytes <= UINT16_MAX && fwrite(head, sizeof head, 1, out) == 1);
    MUST(bytes == 0 || fwrite(data, bytes, 1, out) == 1);
}

static int put_name(const char *data, size_t bytes, void *out)
{
    put(out, FILE_NAMES, 0, data, bytes);
    return 0;
}

static void record(const char *folder, const char *name, const struct pool *pool)
{
    char path[DIRECTORY_PATH_MAX], seed[DIRECTORY_PATH_MAX];
    snprintf(seed, sizeof seed, "%s/%s", folder, name);
    FILE *out = fopen(seed, "wb");
    MUST(out != NULL);
    path_of("names", path);
    MUST(store_replay(path, pool->names_bytes, put_name, out) == 0);
    char *data;
    size_t bytes;
    for (unsigned i = 0; i < WINDOW_NUMBERS; i++) {
        window_path(i, path);
        if (store_read(path, &data, &bytes) == 0) {
            put(out, FILE_WINDOW, i, data, bytes);
            free(data);
        }
    }
    path_of("checkpoint", path);
    MUST(store_chain_read(path, &data, &bytes) == 0);
    struct store_cursor cursor = {.data = data, .bytes = bytes};
    for (const char *piece; store_chain_next(&cursor, &piece, &bytes);)
        put(out, FILE_CHAIN, 0, piece, bytes);
    free(data);
    fclose(out);
}

static void step(struct pool *pool, uint64_t now)
{
    pool_scan(pool, true);
    pool_round(pool);
    pool_account(pool, 1000000, now);
    pool_cycle(pool, now);
    MUST(checkpoint_write(pool) == 0);
}

/* A worker's records, in part still open; later pieces of the chain; closed windows. */
static void record_all(const char *folder)
{
    synthetic_directory(&s);
    synthetic_attach(&s);
    struct pool *pool = open_pool();
    uint64_t now = clock_monotonic_ns();
    synthetic_type(&s, 0, "(other)");
    synthetic_type(&s, 1, "/cart");
    uint32_t outer = synthetic_node(&s, 0, "app.py", "outer", 1),
             inner = synthetic_node(&s, outer, "app.py", "inner", 7);
    uint64_t root = synthetic_begin(&s, 1, 0, 0.5);
    synthetic_sample(&s, root, inner, STATE_CPU, 10000000);
    synthetic_message(&s, root, "{\"a\":1}", 7, MESSAGE_BEGIN, 1);
    step(pool, now);
    record(folder, "open", pool);
    synthetic_finish(&s, root, 1, 30000000, true);
    root = synthetic_begin(&s, 1, 0, 1);
    synthetic_sample(&s, root, outer, STATE_BLOCKED, 10000000);
    synthetic_count(&s, 1, 1000);
    synthetic_message(&s, root, "{\"b\":[]}", 8, 0, 2);
    step(pool, now += NS_PER_SECOND);
    step(pool, now += NS_PER_SECOND);
    record(folder, "chain", pool);
    for (int i = 0; i < 2; i++) {
        synthetic_finish(&s, root, 1, 40000000, false);
        root = synthetic_begin(&s, 1, 0, 1);
        synthetic_sample(&s, root, inner, STATE_GIL_WAIT, 10000000);
        step(pool, now += 11 * NS_PER_SECOND);
    }
    record(folder, "windows", pool);
    pool_close(pool);
    synthetic_end(&s);
}

/* ---- one input ----------------------------------------------------------------------------------------- */

static void store_raw(const char *path, const void *data, size_t bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    MUST(fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes);
    close(fd);
}

static void store_all(const uint8_t *data, size_t size)
{
    char path[DIRECTORY_PATH_MAX];
    struct store_chain chain = {.fd = -1};
    uint64_t names_bytes = 0;
    for (int i = 0; i < PIECES_MOST && size >= PIECE_HEAD; i++) {
        enum file file = data[0] % FILES;
        unsigned number = data[1] % WINDOW_NUMBERS;
        size_t bytes = data[2] | (size_t)data[3] << 8;
        data += PIECE_HEAD;
        size -= PIECE_HEAD;
        if (bytes > size)
            bytes = size;
        switch (file) {
        case FILE_CHAIN:
            path_of("checkpoint", path);
            MUST((chain.fd < 0 ? store_chain_begin(&chain, path, data, bytes)
                               : store_chain_append(&chain, data, bytes)) == 0);
            break;
        case FILE_NAMES:
            path_of("names", path);
            MUST(store_append(path, &names_bytes, data, bytes) == 0);
            break;
        case FILE_WINDOW:
            window_path(number, path);
            MUST(store_write(path, data, bytes) == 0);
            break;
        default:
            path_of("checkpoint", path);
            store_raw(path, data, bytes);
        }
        data += bytes;
        size -= bytes;
    }
    store_chain_close(&chain);
}

static void report(const struct pool *pool)
{
    struct report_facts facts = {.source = "fuzz", .cycle_ms = 1000};
    struct report_options options = {.limit = 20, .stacks = true};
    json_t *json = report_build(&pool->merge, pool->windows.published, &facts, &options);
    char *text = json != NULL ? json_dumps(json, 0) : NULL;
    MUST(text != NULL);
    free(text);
    json_decref(json);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    rcu_init();
    rcu_register_thread();
    log_open("/dev/null");
    MUST(guard_install() == 0 && destinations_start() == 0);
    if (*argc == 3 && strcmp((*argv)[1], "--record") == 0) {
        record_all((*argv)[2]);
        exit(0);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char damaged[DIRECTORY_PATH_MAX];
    synthetic_directory(&s);
    store_all(data, size);
    struct pool *pool = open_pool();
    step(pool, clock_monotonic_ns());
    MUST(pool_publish(pool, clock_monotonic_ns()) == 0);
    report(pool);
    MUST(checkpoint_write(pool) == 0);
    pool_close(pool);
    path_of("checkpoint.damaged", damaged);
    unlink(damaged);
    pool = open_pool();
    MUST(access(damaged, F_OK) != 0); /* our own writing is read */
    pool_close(pool);
    synthetic_remove_tree(s.directory);
    return 0;
}
