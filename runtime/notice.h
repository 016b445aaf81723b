/*
 * Notices: one line on stderr, once for each kind, over all processes of one server. Four workers that find
 * the same thing wrong say it once, whether they were forked from a process that had loaded us (they share a
 * page) or each loaded us by itself (they share a process group, and the first to bind a name in the abstract
 * socket namespace speaks; it keeps that one descriptor, so only a process with something wrong has it).
 */
#ifndef RUNTIME_NOTICE_H
#define RUNTIME_NOTICE_H

enum notice {
    NOTICE_NO_SEGMENT = 0,    /* the segment could not be made */
    NOTICE_NO_AGGREGATOR = 1, /* none serves the directory and none could be started */
    NOTICE_NO_SAMPLER = 2,    /* the sampler thread could not run */
};

/** Set up the memory that forked processes share. Call when the extension is loaded. */
void notice_open(void);

/** Print "profilomatic: <text>\n", unless this kind was printed before. Any thread of the application's;
 * takes no lock. */
void notice_once(enum notice kind, const char *format, ...) __attribute__((format(printf, 2, 3)));

/**
 * The sampler's way: it has no stderr of its own. The text is kept and printed by the next
 * notice_print_deferred; of several only the first.
 */
void notice_defer(enum notice kind, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** Print what was deferred, if anything. A load when there is nothing. */
void notice_print_deferred(void);

#endif
