/*
 * Guest: a worker in a directory of another user, whose service has to make the pool's folder for it
 * (aggregator/guests.h).
 */
#ifndef RUNTIME_GUEST_H
#define RUNTIME_GUEST_H

/**
 * Ask the service of `directory` to make the folder `pool` (a path in it) for this process's user. At most a
 * second. 0, or -errno with fault_text(): -ENOENT or -ECONNREFUSED if no service listens there now.
 */
int guest_ask_for_pool(const char *directory, const char *pool);

#endif
