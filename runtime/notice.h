/*
 * Notices: one line on stderr, once for each kind, over all processes forked from the one that loaded us. Four
 * workers that find the same thing wrong say it once.
 */
#ifndef RUNTIME_NOTICE_H
#define RUNTIME_NOTICE_H

enum notice {
    NOTICE_NO_SEGMENT = 0,    /* the segment could not be made */
    NOTICE_NO_AGGREGATOR = 1, /* none serves the directory and none could be started */
    NOTICE_NO_SAMPLER = 2,    /* the sampler thread could not run */
    NOTICE_CHECK = 3,         /* this interpreter is not what we were built for */
};

/** Set up the memory that forked processes share. Call when the extension is loaded. */
void notice_open(void);

/** Print "profilomatic: <text>\n", unless this kind was printed before. Any thread; takes no lock. */
void notice_once(enum notice kind, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
