/* Where shared files lie: see directory.h. */
#include "shm/directory.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/fault.h"
#include "shm/testpoint.h"

int directory_join(char out[DIRECTORY_PATH_MAX], const char *a, const char *b)
{
    int n = snprintf(out, DIRECTORY_PATH_MAX, "%s/%s", a, b);
    return n < 0 || n >= DIRECTORY_PATH_MAX ? fault(ENAMETOOLONG, "%s/%s", a, b) : 0;
}

int directory_default(char out[DIRECTORY_PATH_MAX])
{
    const char *named = getenv("PROFILOMATIC_DIR");
    int n;
    if (named != NULL && *named != '\0')
        n = snprintf(out, DIRECTORY_PATH_MAX, "%s", named);
    else if (access("/run/profilomatic", W_OK | X_OK) == 0)
        n = snprintf(out, DIRECTORY_PATH_MAX, "/run/profilomatic");
    else
        n = snprintf(out, DIRECTORY_PATH_MAX, "/dev/shm/profilomatic-%lu", (unsigned long)geteuid());
    return n < 0 || n >= DIRECTORY_PATH_MAX ? fault(ENAMETOOLONG, "runtime directory") : 0;
}

static int plain(unsigned char c)
{
    return isalnum(c) || c == '-' || c == '_' || c == '.';
}

int directory_pool(char out[DIRECTORY_PATH_MAX], const char *directory, uid_t uid, const char *source)
{
    char escaped[3 * DIRECTORY_SOURCE_MAX + 1];
    size_t n = 0;
    for (const char *s = source; *s != '\0'; s++) {
        if ((size_t)(s - source) >= DIRECTORY_SOURCE_MAX)
            return fault(ENAMETOOLONG, "source name (at most %d bytes)", DIRECTORY_SOURCE_MAX);
        if (plain((unsigned char)*s))
            escaped[n++] = *s;
        else
            n += (size_t)sprintf(escaped + n, "%%%02X", (unsigned char)*s);
    }
    escaped[n] = '\0';
    int written = snprintf(out, DIRECTORY_PATH_MAX, "%s/%lu-%s", directory, (unsigned long)uid, escaped);
    return written < 0 || written >= DIRECTORY_PATH_MAX ? fault(ENAMETOOLONG, "%s", directory) : 0;
}

int directory_parse_pool(const char *name, uid_t *uid, char source[DIRECTORY_SOURCE_MAX + 1])
{
    char *end;
    if (!isdigit((unsigned char)name[0]))
        return -EINVAL;
    errno = 0;
    unsigned long parsed = strtoul(name, &end, 10);
    if (errno != 0 || *end != '-' || parsed > UINT32_MAX)
        return -EINVAL;
    size_t n = 0;
    for (const char *s = end + 1; *s != '\0'; s++) {
        unsigned value = (unsigned char)*s;
        if (*s == '%') {
            if (!isxdigit((unsigned char)s[1]) || !isxdigit((unsigned char)s[2]) ||
                sscanf(s + 1, "%2x", &value) != 1 || value == 0)
                return -EINVAL;
            s += 2;
        } else if (!plain((unsigned char)*s)) {
            return -EINVAL;
        }
        if (n == DIRECTORY_SOURCE_MAX)
            return -EINVAL;
        source[n++] = (char)value;
    }
    source[n] = '\0';
    *uid = (uid_t)parsed;
    return 0;
}

int directory_make(const char *path)
{
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return fault(errno, "cannot make %s", path);
    TESTPOINT(
        "folder-made"); /* All see it, perhaps without what belongs in it, which the next comer makes. */
    struct stat st;
    if (lstat(path, &st) != 0)
        return fault(errno, "cannot look at %s", path);
    if (!S_ISDIR(st.st_mode))
        return fault(ENOTDIR, "%s", path);
    return 0;
}

int directory_make_pool(const char *directory, const char *pool)
{
    char path[DIRECTORY_PATH_MAX];
    int rc = directory_make(directory);
    if (rc == 0)
        rc = directory_make(pool);
    if (rc == 0 && (rc = directory_join(path, pool, "requests")) == 0)
        rc = directory_make(path);
    if (rc == 0 && (rc = directory_join(path, pool, "rings")) == 0)
        rc = directory_make(path);
    return rc;
}
