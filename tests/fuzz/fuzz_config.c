/*
 * Fuzzing the operator's configuration file. What is accepted is within its bounds and allows nothing else
 * than it says; what is refused changes nothing; a comment before it, however long, makes no difference.
 */
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "aggregator/budget.h"
#include "aggregator/config.h"
#include "aggregator/merge.h"
#include "tests/unit/no_check.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { COMMENT_BYTES = 5000 };

static int file;
static char path[64];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    file = memfd_create("configuration", MFD_CLOEXEC);
    MUST(file >= 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    return 0;
}

static void check_list(const struct config *config, unsigned count, const char (*list)[CONFIG_TEXT_MOST])
{
    MUST(count <= CONFIG_LIST_MOST);
    for (unsigned i = 0; i < count; i++) {
        char text[CONFIG_TEXT_MOST + 64];
        MUST(memchr(list[i], '\0', CONFIG_TEXT_MOST) != NULL);
        snprintf(text, sizeof text, "%s/../x", list[i]);
        MUST(!config_allows_path(config, text));
        config_allows_path(config, list[i]);
        snprintf(text, sizeof text, "http://%s@elsewhere/x", list[i]);
        if (strpbrk(list[i], "/?#") == NULL)
            MUST(!config_allows_url(config, text));
        config_allows_url(config, list[i]);
    }
}

static int read_behind(const char *comment, const uint8_t *data, size_t size, struct config *config)
{
    size_t before = strlen(comment);
    MUST(ftruncate(file, 0) == 0 && pwrite(file, comment, before, 0) == (ssize_t)before);
    MUST(pwrite(file, data, size, (off_t)before) == (ssize_t)size);
    memset(config, 0x55, sizeof *config);
    return config_read(config, path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char comment[COMMENT_BYTES];
    memset(comment, '#', sizeof comment - 2);
    memcpy(comment + sizeof comment - 20, " max_overhead = 0\n", 19);
    struct config config, same, before;
    memset(&before, 0x55, sizeof before);
    int rc = read_behind("", data, size, &config);
    MUST(read_behind(comment, data, size, &same) == rc && memcmp(&config, &same, sizeof config) == 0);
    if (rc != 0) {
        MUST(memcmp(&config, &before, sizeof config) == 0);
        return 0;
    }
    MUST(isfinite(config.max_overhead) && config.max_overhead >= 0 &&
         config.max_overhead <= BUDGET_OVERHEAD_MOST);
    MUST(config.max_action_types <= MERGE_TYPES_TOLD);
    MUST(config.max_actions_per_run <= 1000000);
    check_list(&config, config.paths, (const char(*)[CONFIG_TEXT_MOST])config.path);
    check_list(&config, config.hosts, (const char(*)[CONFIG_TEXT_MOST])config.host);
    return 0;
}
