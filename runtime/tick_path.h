/*
 * Tick path: what runs in every tick of the sampler is marked so, and the linker lays it together. Between
 * two ticks of 10 ms other threads have the core and its caches; then a tick pays for each page of code and
 * data that it touches, not for what it does there.
 */
#ifndef RUNTIME_TICK_PATH_H
#define RUNTIME_TICK_PATH_H

#define TICK_PATH __attribute__((hot))

#endif
