/*
 * The synthetic worker (tests/unit/synthetic.h) checks itself with Check's macros. Where no test runs, in
 * fuzz targets and benchmarks, Check's library is not linked: what does not hold ends the program. Included
 * once.
 */
#ifndef TESTS_NO_CHECK_H
#define TESTS_NO_CHECK_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

void CK_EXPORT _mark_point(const char *file, int line)
{
    (void)file;
    (void)line;
}

void CK_EXPORT _ck_assert_failed(const char *file, int line, const char *expression, const char *format, ...)
{
    (void)format;
    fprintf(stderr, "%s:%d: %s\n", file, line, expression);
    abort();
}

#define MUST(what)                                                                                           \
    do {                                                                                                     \
        if (!(what))                                                                                         \
            _ck_assert_failed(__FILE__, __LINE__, #what, NULL);                                              \
    } while (0)

#endif
