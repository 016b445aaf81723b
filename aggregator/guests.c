/* Pools for workers of other users: see guests.h. */
#include "aggregator/guests.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/directory.h"
#include "shm/fault.h"
#include "shm/testpoint.h"

static unsigned pools_of(const char *directory, uid_t uid, const char *but)
{
    char source[DIRECTORY_SOURCE_MAX + 1];
    unsigned found = 0;
    uid_t owner;
    DIR *folder = opendir(directory);
    const struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL)
        found += directory_parse_pool(entry->d_name, &owner, source) == 0 && owner == uid &&
                 strcmp(entry->d_name, but) != 0;
    if (folder != NULL)
        closedir(folder);
    return found;
}

/* Ours for a moment, then theirs: what is in a folder of ours cannot be exchanged in between. */
static int make_theirs(int pool, const char *name, uid_t uid)
{
    if (mkdirat(pool, name, 0700) != 0 && errno != EEXIST)
        return fault(errno, "cannot make %s", name);
    if (fchownat(pool, name, uid, (gid_t)-1, AT_SYMLINK_NOFOLLOW) != 0)
        return fault(errno, "cannot hand %s over", name);
    return 0;
}

int guests_make_pool(const char *directory, const json_t *request, uid_t uid)
{
    const char *name = json_string_value(json_object_get(request, "name"));
    char path[DIRECTORY_PATH_MAX], source[DIRECTORY_SOURCE_MAX + 1];
    struct stat st;
    uid_t asked;
    if (name == NULL || directory_parse_pool(name, &asked, source) != 0 || asked != uid)
        return fault(EPERM, "\"name\" must be a pool of uid %lu", (unsigned long)uid);
    /* By way of the source: one spelling for each pool. */
    int rc = directory_pool(path, directory, uid, source);
    if (rc != 0)
        return rc;
    if (pools_of(directory, uid, strrchr(path, '/') + 1) >= GUESTS_POOLS_MOST)
        return fault(ENOSPC, "uid %lu has %d pools already", (unsigned long)uid, GUESTS_POOLS_MOST);
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return fault(errno, "cannot make %s", path);
    TESTPOINT("guest-pool-made"); /* The guest may not pass yet; it asks again, and the rest is made then. */
    int pool = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (pool < 0 || fstat(pool, &st) != 0)
        rc = fault(errno, "cannot open %s", path);
    else if (st.st_uid != geteuid())
        rc = fault(EEXIST, "%s was made by uid %lu", path, (unsigned long)st.st_uid);
    if (rc == 0)
        rc = make_theirs(pool, "requests", uid);
    if (rc == 0)
        rc = make_theirs(pool, "rings", uid);
    /* Last, and past the umask: now they may pass. */
    if (rc == 0 && fchmod(pool, 0711) != 0)
        rc = fault(errno, "cannot open %s to others", path);
    if (pool >= 0)
        close(pool);
    return rc;
}
