/* Processes that outlive a command: see survivors.h. */
#include "aggregator/cli/survivors.h"

#include <ctype.h>
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/cli/places.h"
#include "shm/directory.h"

/* Is one of the parts of /proc/<pid>/<file>, which `end` separates, `wanted`, or (`within`) does it hold it?
 */
static bool says(const char *pid, const char *file, int end, const char *wanted, bool within)
{
    char path[64], *part = NULL;
    size_t capacity = 0;
    ssize_t length;
    bool found = false;
    snprintf(path, sizeof path, "/proc/%.20s/%s", pid, file);
    FILE *in = fopen(path, "re");
    while (in != NULL && !found && (length = getdelim(&part, &capacity, end, in)) > 0) {
        if (part[length - 1] == end)
            part[length - 1] = '\0';
        found = within ? strstr(part, wanted) != NULL : strcmp(part, wanted) == 0;
    }
    if (in != NULL)
        fclose(in);
    free(part);
    return found;
}

struct survivors survivors_find(const char *directory, const char *python)
{
    char variable[DIRECTORY_PATH_MAX + 32], extension[PLACES_PATH_MAX + 32];
    struct survivors found = {0};
    snprintf(variable, sizeof variable, "PROFILOMATIC_DIR=%s", directory);
    snprintf(extension, sizeof extension, "%s/profilomatic/_runtime.", python);
    DIR *processes = opendir("/proc");
    const struct dirent *entry;
    while (processes != NULL && (entry = readdir(processes)) != NULL)
        if (isdigit((unsigned char)entry->d_name[0]) &&
            says(entry->d_name, "environ", '\0', variable, false) &&
            says(entry->d_name, "maps", '\n', extension, true) && found.count++ == 0)
            found.first = (pid_t)atoi(entry->d_name);
    if (processes != NULL)
        closedir(processes);
    return found;
}
