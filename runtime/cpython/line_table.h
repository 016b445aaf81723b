/*
 * Line tables: from an instruction to its line, condensed from CPython's own: the location table of 3.11 and
 * later (PEP 657), or the pairs of 3.10 (PEP 626: bytes of code, signed difference of the line, -128 for
 * none).
 *
 * CPython's table has an entry for each instruction or two, since 3.11 with columns; it is not cut however
 * long it is (big functions would lose their lines), so it is read in pieces and rewritten as runs of
 * instructions on one line: varint (code units << 1 | has a line), then, if it has one, varint (zigzag of the
 * difference from the last line).
 */
#ifndef RUNTIME_CPYTHON_LINE_TABLE_H
#define RUNTIME_CPYTHON_LINE_TABLE_H

#include <stdbool.h>
#include <stdint.h>

enum line_table_form {
    LINE_TABLE_LOCATIONS,
    LINE_TABLE_PAIRS,
};

/** Reads CPython's entries byte by byte, writes runs. */
struct line_table_writer {
    uint8_t *out;
    uint32_t used, room;
    bool full;          /* what came after did not fit */
    int64_t line;       /* as CPython's entries say so far */
    int64_t written;    /* line of the last run written */
    uint64_t run_units; /* the run that is being gathered */
    int64_t run_line;   /* its line, or -1 */
    enum line_table_form form;
    /* the entry that is being read */
    uint8_t kind;
    uint8_t wanted; /* bytes or varints of it still to come; 0: between entries */
    uint8_t shift;
    uint32_t units;
    uint64_t varint;
};

/** Begin a table for code that starts at `first_line`. */
void line_table_begin(struct line_table_writer *writer, enum line_table_form form, int64_t first_line,
                      uint8_t *out, uint32_t room);

/** Feed the next bytes of co_linetable. */
void line_table_feed(struct line_table_writer *writer, const uint8_t *bytes, uint32_t count);

/** End; returns the bytes written. */
uint32_t line_table_end(struct line_table_writer *writer);

/** The line of instruction `unit`; 0 if it has none or the table ends before it. */
uint32_t line_table_find(const uint8_t *table, uint32_t bytes, uint32_t first_line, uint32_t unit);

#endif
