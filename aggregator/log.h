/*
 * Log: the service's one way to say something to its operator.
 *
 * One line an event, with the time, to standard error or to a file of bounded size (when it is full it is
 * renamed to "<path>.old" and a new one begins). Any thread.
 */
#ifndef AGGREGATOR_LOG_H
#define AGGREGATOR_LOG_H

enum {
    LOG_FILE_BYTES = 256 << 10, /* of each of the two files */
};

/** Log to `path` from now on; NULL: to standard error. 0, or -errno with fault_text(). */
int log_open(const char *path);

/** Write one line. */
void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** Close; an empty log file is removed. */
void log_close(void);

#endif
