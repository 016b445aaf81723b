/* A directory for one `run`: see private_directory.h. */
#include "aggregator/cli/private_directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shm/fault.h"

#define LOCK_NAME "run.lock"

enum {
    TREE_DESCRIPTORS = 16,
    YOUNG_SECONDS = 60, /* a directory so young may not have its lock yet */
};

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    remove(path); /* what cannot be removed must not keep the rest */
    return 0;
}

static void remove_tree(const char *path)
{
    /* Twice: a worker that outlives the command may have added a file meanwhile. */
    if (nftw(path, remove_entry, TREE_DESCRIPTORS, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) == 0 &&
        access(path, F_OK) == 0)
        nftw(path, remove_entry, TREE_DESCRIPTORS, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* Is it the directory of a `run` that was killed? */
static bool abandoned(const char *path)
{
    char lock[DIRECTORY_PATH_MAX];
    struct stat st;
    if (lstat(path, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() ||
        time(NULL) - st.st_mtime < YOUNG_SECONDS || directory_join(lock, path, LOCK_NAME) != 0)
        return false;
    int fd = open(lock, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT;
    bool free_now = flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
    return free_now;
}

static void sweep(const char *parent)
{
    char path[DIRECTORY_PATH_MAX];
    DIR *folder = opendir(parent);
    const struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL)
        if (strncmp(entry->d_name, "run-", 4) == 0 && directory_join(path, parent, entry->d_name) == 0 &&
            abandoned(path))
            remove_tree(path);
    if (folder != NULL)
        closedir(folder);
}

int private_directory_parent(char parent[DIRECTORY_PATH_MAX])
{
    struct stat st;
    snprintf(parent, DIRECTORY_PATH_MAX, "/dev/shm/profilomatic-%lu", (unsigned long)geteuid());
    if (lstat(parent, &st) != 0)
        return fault(errno, "cannot look at %s", parent);
    /* /dev/shm is everybody's: a folder that another user made first must not be trusted. */
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022) != 0)
        return fault(EPERM, "%s belongs to somebody else or is open to others", parent);
    return 0;
}

/* Servers of root give their workers to another user: they may pass, and make nothing (aggregator/guests.h).
 */
static int let_pass(const char *path)
{
    return geteuid() != 0 || chmod(path, 0711) == 0 ? 0 : fault(errno, "cannot open %s to others", path);
}

static int make_parent(char parent[DIRECTORY_PATH_MAX])
{
    snprintf(parent, DIRECTORY_PATH_MAX, "/dev/shm/profilomatic-%lu", (unsigned long)geteuid());
    int rc = -ENOENT;
    for (int tries = 0; tries < 3 && rc == -ENOENT;
         tries++) { /* another `run` that ends takes it away if empty */
        rc = directory_make(parent);
        if (rc == 0)
            rc = private_directory_parent(parent);
    }
    return rc == 0 ? let_pass(parent) : rc;
}

static int take_lock(struct private_directory *directory)
{
    char path[DIRECTORY_PATH_MAX];
    int rc = directory_join(path, directory->path, LOCK_NAME);
    if (rc != 0)
        return rc;
    directory->lock = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (directory->lock < 0 || flock(directory->lock, LOCK_EX | LOCK_NB) != 0)
        return fault(errno, "cannot lock %s", path);
    return 0;
}

int private_directory_make(struct private_directory *directory)
{
    uint64_t random = 0;
    *directory = (struct private_directory){.lock = -1};
    int rc = make_parent(directory->parent);
    if (rc != 0)
        return rc;
    sweep(directory->parent);
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        return fault(errno, "no random number");
    snprintf(directory->path, sizeof directory->path, "%s/run-%d-%016llx", directory->parent, (int)getpid(),
             (unsigned long long)random);
    /* Another `run` that ends may take the empty parent away between the two steps. */
    if (mkdir(directory->path, 0700) != 0 &&
        (errno != ENOENT || make_parent(directory->parent) != 0 || mkdir(directory->path, 0700) != 0)) {
        rc = fault(errno, "cannot make %s", directory->path);
        directory->path[0] = '\0';
        rmdir(directory->parent);
        return rc;
    }
    rc = take_lock(directory);
    if (rc == 0)
        rc = let_pass(directory->path);
    if (rc != 0)
        private_directory_remove(directory);
    return rc;
}

void private_directory_remove(struct private_directory *directory)
{
    if (directory->path[0] == '\0')
        return;
    remove_tree(directory->path);
    rmdir(directory->parent); /* fails, rightly, while others use it */
    directory->path[0] = '\0';
    if (directory->lock >= 0)
        close(directory->lock);
    directory->lock = -1;
}
