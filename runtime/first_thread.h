/*
 * First thread: what we do when the process's first thread ends before the process does.
 *
 * A process ends with its last thread, and without us that may be the first one: the child of a fork in some
 * thread of a server has only that thread, and ends when its function returns. The sampler would keep such a
 * child for ever, and its parent waiting. So the end of the first thread, told by the destructor of a thread
 * specific value, ends the process where only threads of ours are left, by exit(0) as the C library does;
 * else it ends the sampler for good, so that the last thread of the application will be the last.
 * A thread of ours that cannot be ended from here (the delivery's, in Python) asks whether it is left alone.
 */
#ifndef RUNTIME_FIRST_THREAD_H
#define RUNTIME_FIRST_THREAD_H

#include <stdbool.h>

/** Once, when the extension is loaded. */
void first_thread_open(void);

/** The calling thread may be the first one of a new process. Also in the child of a fork, without the GIL. */
void first_thread_mark(void);

/** Has it ended in this process? Then no thread of ours may be started any more. */
bool first_thread_has_ended(void);

/** Has it ended, and are all other threads than the calling one ours as well? Any thread, without the GIL. */
bool first_thread_left_only_ours(void);

#endif
