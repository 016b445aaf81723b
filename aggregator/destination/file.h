/*
 * File sink: appends lines to a file that others may rename, remove or append to as well.
 */
#ifndef AGGREGATOR_DESTINATION_FILE_H
#define AGGREGATOR_DESTINATION_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct file_sink {
    const char *path; /* absolute; the owner keeps it */
    bool no_links;    /* refuse symbolic links anywhere in the path */
    int fd;           /* -1: not open */
    dev_t device;
    ino_t inode;
};

/**
 * Append `bytes` (whole lines) in as few writes as the system allows; *done is how far it got, also on
 * failure, and where it goes on when called again with the same bytes. Opens the file (0644 less the umask),
 * and opens it afresh if the path names another file by now. Returns 0 when all is written, or -errno with
 * fault_text().
 */
int file_sink_write(struct file_sink *sink, const char *bytes, size_t length, size_t *done);

/** Close the file. */
void file_sink_close(struct file_sink *sink);

#endif
