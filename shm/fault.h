/*
 * Errors: a function returns 0 or -errno; the words are added where they are known.
 *
 * `fault()` starts the calling thread's message and returns -errno; `fault_in()` puts context before it as
 * the error unwinds. The message is thread-local, so the last failure of a thread can be told by
 * `fault_text()`.
 */
#ifndef SHM_FAULT_H
#define SHM_FAULT_H

/** Start a message ("<words>: <strerror>"); returns -error. `error` is a positive errno. */
int fault(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** Put "<words>: " before the message; returns `code` unchanged (a negative errno). */
int fault_in(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** The calling thread's last message; "" if none. Valid until its next failure. */
const char *fault_text(void);

#endif
