/* Condensed line tables: see line_table.h. CPython's formats: Objects/locations.md in its sources and PEP
 * 657; for 3.10, Objects/lnotab_notes.txt and PEP 626. */
#include "runtime/cpython/line_table.h"

#include <string.h>

enum {
    KIND_ONE_LINE_0 = 10, /* 10, 11, 12: line + 0, 1, 2, and two bytes of columns */
    KIND_NO_COLUMNS = 13, /* a signed varint of lines */
    KIND_LONG = 14,       /* a signed varint of lines, then three varints */
    KIND_NONE = 15,       /* no location */
    VARINT_MOST_SHIFT = 30,
    PAIR_NO_LINE = -128,
};

void line_table_begin(struct line_table_writer *writer, enum line_table_form form, int64_t first_line,
                      uint8_t *out, uint32_t room)
{
    memset(writer, 0, sizeof *writer);
    writer->form = form;
    writer->out = out;
    writer->room = room;
    writer->line = writer->written = first_line;
    writer->run_line = -1;
}

static void put_varint(struct line_table_writer *writer, uint64_t value)
{
    do {
        if (writer->used == writer->room) {
            writer->full = true;
            return;
        }
        writer->out[writer->used++] = (uint8_t)((value & 127) | (value > 127 ? 128 : 0));
        value >>= 7;
    } while (value != 0);
}

static void flush(struct line_table_writer *writer)
{
    if (writer->run_units == 0 || writer->full)
        return;
    uint32_t before = writer->used;
    put_varint(writer, writer->run_units << 1 | (writer->run_line >= 0));
    if (writer->run_line >= 0) {
        int64_t step = writer->run_line - writer->written;
        put_varint(writer, (uint64_t)step << 1 ^ (uint64_t)(step >> 63));
        writer->written = writer->run_line;
    }
    if (writer->full)
        writer->used = before;
}

static void end_entry(struct line_table_writer *writer)
{
    int64_t line =
        writer->kind == KIND_NONE || writer->line <= 0 || writer->line > UINT32_MAX ? -1 : writer->line;
    if (line != writer->run_line) {
        flush(writer);
        writer->run_units = 0;
        writer->run_line = line;
    }
    writer->run_units += writer->units;
    writer->wanted = 0;
}

static void begin_entry(struct line_table_writer *writer, uint8_t head)
{
    writer->kind = (head >> 3) & 15;
    writer->units = (head & 7u) + 1;
    writer->varint = writer->shift = 0;
    if (writer->kind == KIND_NONE)
        writer->wanted = 0;
    else if (writer->kind == KIND_LONG)
        writer->wanted = 4;
    else if (writer->kind == KIND_NO_COLUMNS)
        writer->wanted = 1;
    else if (writer->kind >= KIND_ONE_LINE_0) {
        writer->wanted = 2;
        writer->line += writer->kind - KIND_ONE_LINE_0;
    } else
        writer->wanted = 1;
    if (writer->wanted == 0)
        end_entry(writer);
}

/* One byte of a pair. Two may stand for no code: they only carry the line on. */
static void feed_pair(struct line_table_writer *writer, uint8_t byte)
{
    if (writer->wanted == 0) {
        writer->units = byte / 2;
        writer->wanted = 1;
        return;
    }
    int8_t step = (int8_t)byte;
    writer->kind = step == PAIR_NO_LINE ? KIND_NONE : KIND_NO_COLUMNS;
    if (step != PAIR_NO_LINE)
        writer->line += step;
    if (writer->units != 0)
        end_entry(writer);
    writer->wanted = 0;
}

void line_table_feed(struct line_table_writer *writer, const uint8_t *bytes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (writer->form == LINE_TABLE_PAIRS) {
            feed_pair(writer, bytes[i]);
            continue;
        }
        if (writer->wanted == 0) {
            begin_entry(writer, bytes[i]);
            continue;
        }
        if (writer->kind == KIND_LONG || writer->kind == KIND_NO_COLUMNS) {
            writer->varint |= (uint64_t)(bytes[i] & 63) << writer->shift;
            if (bytes[i] & 64) {
                if (writer->shift < VARINT_MOST_SHIFT)
                    writer->shift += 6;
                continue;
            }
            if (writer->kind == KIND_NO_COLUMNS || writer->wanted == 4)
                writer->line +=
                    writer->varint & 1 ? -(int64_t)(writer->varint >> 1) : (int64_t)(writer->varint >> 1);
            writer->varint = writer->shift = 0;
        }
        if (--writer->wanted == 0)
            end_entry(writer);
    }
}

uint32_t line_table_end(struct line_table_writer *writer)
{
    flush(writer);
    return writer->used;
}

static bool get_varint(const uint8_t *table, uint32_t bytes, uint32_t *at, uint64_t *value)
{
    *value = 0;
    for (unsigned shift = 0; *at < bytes && shift < 64; shift += 7) {
        uint8_t byte = table[(*at)++];
        *value |= (uint64_t)(byte & 127) << shift;
        if (!(byte & 128))
            return true;
    }
    return false;
}

uint32_t line_table_find(const uint8_t *table, uint32_t bytes, uint32_t first_line, uint32_t unit)
{
    int64_t line = first_line;
    uint64_t end = 0;
    for (uint32_t at = 0; at < bytes;) {
        uint64_t run, step = 0;
        if (!get_varint(table, bytes, &at, &run) || ((run & 1) && !get_varint(table, bytes, &at, &step)))
            return 0;
        line += (int64_t)(step >> 1) ^ -(int64_t)(step & 1);
        end += run >> 1;
        if (unit < end)
            return run & 1 ? (uint32_t)line : 0;
    }
    return 0;
}
