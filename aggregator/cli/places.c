/* Finding the other parts: see places.h. */
#include "aggregator/cli/places.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/fault.h"

/* The folder of this program, without a "/" at its end. */
static int own_folder(char out[PLACES_PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", out, PLACES_PATH_MAX - 1);
    if (n <= 0)
        return fault(errno, "cannot read /proc/self/exe");
    out[n] = '\0';
    char *slash = strrchr(out, '/');
    if (slash == NULL)
        return fault(ENOENT, "%s", out);
    *slash = '\0';
    return 0;
}

int places_python(char out[PLACES_PATH_MAX])
{
    static const char *const below[] = {"/../python", "/../lib/profilomatic/python"};
    char folder[PLACES_PATH_MAX], path[PLACES_PATH_MAX + 64];
    struct stat st;
    int rc = own_folder(folder);
    if (rc != 0)
        return rc;
    for (unsigned i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s%s/profilomatic/_site", folder, below[i]);
        if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
            continue;
        snprintf(path, sizeof path, "%s%s", folder, below[i]);
        /* Without the "..": the path is seen in sys.path and in tracebacks. */
        if (realpath(path, out) != NULL)
            return 0;
    }
    return fault(ENOENT, "the Python package is neither in %s%s nor in %s%s", folder, below[0], folder,
                 below[1]);
}

static int is_program(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

int places_aggregator(char out[PLACES_PATH_MAX])
{
    static const char name[] = "profilomatic-aggregator";
    const char *named = getenv("PROFILOMATIC_AGGREGATOR");
    if (named != NULL && *named != '\0') {
        snprintf(out, PLACES_PATH_MAX, "%s", named);
        return is_program(out) ? 0 : fault(ENOENT, "PROFILOMATIC_AGGREGATOR names no program: %s", named);
    }
    char folder[PLACES_PATH_MAX];
    if (own_folder(folder) == 0 && snprintf(out, PLACES_PATH_MAX, "%s/%s", folder, name) < PLACES_PATH_MAX &&
        is_program(out))
        return 0;
    const char *at = getenv("PATH");
    while (at != NULL && *at != '\0') {
        size_t length = strcspn(at, ":");
        if (length != 0 &&
            snprintf(out, PLACES_PATH_MAX, "%.*s/%s", (int)length, at, name) < PLACES_PATH_MAX &&
            is_program(out))
            return 0;
        at += length + (at[length] == ':');
    }
    return fault(ENOENT, "%s is neither in %s nor on PATH", name, folder);
}
