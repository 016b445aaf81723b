/*
 * Resolve: read one code object by guarded copies: its numbers, its names as UTF-8, its instructions that
 * call, its line table.
 *
 * What stands at the address may be anything. It is taken for a live code object only if its type is the code
 * type and its reference count is that of a live object: freeing leaves 0 there, or an allocator's pointer.
 */
#include <string.h>

#include "runtime/cpython/calls.h"
#include "runtime/cpython/code_table.h"
#include "runtime/cpython/layout.h"
#include "runtime/cpython/line_table.h"

enum {
    MOST_INSTRUCTIONS = 1 << 28,
    MOST_FRAME_WORDS = 1 << 24,
    MOST_PAIRS = 1 << 24,      /* bytes */
    PIECE = 4096,              /* of a line table or of instructions at a time */
    LOOK_BACK_FIRST = 1 << 10, /* bytes before an instruction that are searched for its object, at first; */
    LOOK_BACK_MOST = 1 << 13,  /*   and at most at a time, when it was not found in less */
};

/* The fields before co_code_adaptive, in a struct of the whole type so that its members can be named. */
union code_head {
    PyCodeObject code;
    uint8_t bytes[sizeof(PyCodeObject)];
};
_Static_assert(CODE_HEAD <= sizeof(PyCodeObject), "the head is part of the object");

static bool is_alive(const PyObject *object)
{
#ifdef Py_GIL_DISABLED
    (void)object;
    return true;
#elif PY_VERSION_HEX >= 0x030e0000
    return object->ob_refcnt > 0 && object->ob_overflow == 0; /* beside flags, in the same word */
#else
    return object->ob_refcnt > 0 && object->ob_refcnt <= (Py_ssize_t)UINT32_MAX;
#endif
}

/* Everything that never changes in the life of a code object and differs between two of them. */
static uint64_t identify(const PyCodeObject *code)
{
    const uintptr_t parts[] = {
        (uintptr_t)code->co_filename,      (uintptr_t)code_qualified_name(code),
        (uintptr_t)code->co_linetable,     (uintptr_t)code->co_firstlineno,
        (uintptr_t)code->co_consts,        code_size_identity(code),
        (uintptr_t)code->co_stacksize,     (uintptr_t)code->co_flags,
        (uintptr_t)code_frame_words(code), (uintptr_t)code_first_traceable(code),
    };
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        hash = (hash ^ parts[i]) * UINT64_C(0x9e3779b97f4a7c15), hash ^= hash >> 29;
    return hash;
}

static bool copy_head(struct copy *copy, uintptr_t address, union code_head *head)
{
    memset(head, 0, sizeof *head);
    if (address == 0 || address % sizeof(void *) != 0 || !copy_piece(copy, address, head, CODE_HEAD))
        return false;
    const PyCodeObject *code = &head->code;
    const PyObject *object = (const PyObject *)code;
    return object->ob_type == &PyCode_Type && is_alive(object) && code_is_plausible(code) &&
           code_frame_words(code) <= MOST_FRAME_WORDS;
}

bool code_is_same(struct copy *copy, const struct code *code)
{
    union code_head head;
    return copy_head(copy, code->address, &head) && identify(&head.code) == code->identity;
}

/* Append one character as UTF-8 if it fits below `limit`; a lone surrogate becomes U+FFFD. */
static bool put_character(struct code_room *room, uint32_t limit, uint32_t c)
{
    if ((c >= 0xD800 && c < 0xE000) || c > 0x10FFFF)
        c = 0xFFFD;
    uint8_t utf8[4];
    uint32_t n;
    if (c < 0x80) {
        utf8[0] = (uint8_t)c, n = 1;
    } else if (c < 0x800) {
        utf8[0] = (uint8_t)(0xC0 | c >> 6), utf8[1] = (uint8_t)(0x80 | (c & 63)), n = 2;
    } else if (c < 0x10000) {
        utf8[0] = (uint8_t)(0xE0 | c >> 12), utf8[1] = (uint8_t)(0x80 | (c >> 6 & 63));
        utf8[2] = (uint8_t)(0x80 | (c & 63)), n = 3;
    } else {
        utf8[0] = (uint8_t)(0xF0 | c >> 18), utf8[1] = (uint8_t)(0x80 | (c >> 12 & 63));
        utf8[2] = (uint8_t)(0x80 | (c >> 6 & 63)), utf8[3] = (uint8_t)(0x80 | (c & 63)), n = 4;
    }
    if (room->used + n > limit)
        return false;
    memcpy(room->bytes + room->used, utf8, n);
    room->used += n;
    return true;
}

/* Is the type at `type` str, or a subclass of it? */
static bool is_string_type(struct copy *copy, uintptr_t type)
{
    if (type == (uintptr_t)&PyUnicode_Type)
        return true;
    unsigned long flags;
    return type != 0 && copy_piece(copy, type + offsetof(PyTypeObject, tp_flags), &flags, sizeof flags) &&
           (flags & Py_TPFLAGS_UNICODE_SUBCLASS) != 0;
}

/* Append the str at `address` as UTF-8 with a zero behind it; NULL if it cannot be read or does not fit. */
static char *copy_string(struct copy *copy, uintptr_t address, struct code_room *room)
{
    PyASCIIObject head;
    const PyASCIIObject *ascii = &head;
    if (address == 0 || !copy_piece(copy, address, &head, sizeof head) || !is_alive(&ascii->ob_base) ||
        !is_string_type(copy, (uintptr_t)ascii->ob_base.ob_type) || ascii->length < 0)
        return NULL;
    uintptr_t data = address + (ascii->state.ascii ? sizeof(PyASCIIObject) : sizeof(PyCompactUnicodeObject));
    if (!ascii->state.compact &&
        !copy_piece(copy, address + offsetof(PyUnicodeObject, data), &data, sizeof data))
        return NULL;
    unsigned kind = ascii->state.kind;
    if (kind != 1 && kind != 2 && kind != 4)
        return NULL;
    uint32_t length = ascii->length > CODE_NAME_MAX ? CODE_NAME_MAX : (uint32_t)ascii->length;
    uint32_t characters[CODE_NAME_MAX];
    uint8_t *raw = (uint8_t *)characters;
    if (length != 0 && (data == 0 || !copy_piece(copy, data, raw, (size_t)length * kind)))
        return NULL;
    if (room->room - room->used < CODE_NAME_MAX + 1) {
        room->full = true;
        return NULL;
    }
    char *text = (char *)room->bytes + room->used;
    uint32_t limit = room->used + CODE_NAME_MAX;
    for (uint32_t i = 0; i < length; i++) {
        uint32_t c = raw[i];
        if (kind == 2) {
            uint16_t two;
            memcpy(&two, raw + 2 * i, sizeof two);
            c = two;
        } else if (kind == 4) {
            c = characters[i];
        }
        if (!put_character(room, limit, c))
            break;
    }
    room->bytes[room->used++] = 0;
    return text;
}

/* The head of the bytes object at `address`; returns its length, or -1. */
static Py_ssize_t bytes_length(struct copy *copy, const PyObject *object)
{
    PyBytesObject bytes;
    memset(&bytes, 0, sizeof bytes);
    if (object == NULL || !copy_piece(copy, (uintptr_t)object, &bytes, offsetof(PyBytesObject, ob_sval)) ||
        bytes.ob_base.ob_base.ob_type != &PyBytes_Type || !is_alive(&bytes.ob_base.ob_base))
        return -1;
    return Py_SIZE(&bytes);
}

/* Code units, or -1. */
static Py_ssize_t count_instructions(struct copy *copy, const PyCodeObject *object)
{
#if HEAP_FRAMES
    Py_ssize_t bytes = bytes_length(copy, object->co_code);
    Py_ssize_t units = bytes < 0 ? -1 : bytes / (Py_ssize_t)sizeof(_Py_CODEUNIT);
#else
    (void)copy;
    Py_ssize_t units = Py_SIZE(object);
#endif
    return units > 0 && units <= MOST_INSTRUCTIONS ? units : -1;
}

#if !HEAP_FRAMES
static bool copy_calls(struct copy *copy, uintptr_t address, struct code *code, struct code_room *room)
{
    const uint32_t map_bytes = calls_map_bytes(code->instructions);
    if (room->room - room->used < map_bytes) {
        room->full = true;
        return false;
    }
    struct calls_writer writer;
    calls_begin(&writer, room->bytes + room->used, code->instructions);
    for (uint32_t unit = 0; unit < code->instructions && !writer.hidden;) {
        uint8_t piece[PIECE];
        uint32_t units = code->instructions - unit;
        if (units > PIECE / sizeof(_Py_CODEUNIT))
            units = PIECE / sizeof(_Py_CODEUNIT);
        if (!copy_piece(copy, address + CODE_HEAD + unit * sizeof(_Py_CODEUNIT), piece,
                        units * sizeof(_Py_CODEUNIT)))
            return false;
        calls_feed(&writer, piece, units);
        unit += units;
    }
    if (!writer.hidden) {
        code->calls = writer.map;
        room->used += map_bytes;
    }
    return true;
}
#endif

static bool copy_lines(struct copy *copy, const PyCodeObject *object, struct code *code,
                       struct code_room *room)
{
    Py_ssize_t length = bytes_length(copy, object->co_linetable);
    /* No entry is longer than 28 bytes, and each stands for a code unit at least; but the pairs of 3.10 may
     * stand for lines without code. */
    if (length < 0 || (uint64_t)length > (HEAP_FRAMES ? MOST_PAIRS : (uint64_t)code->instructions * 32))
        return false;
    struct line_table_writer writer;
    code->line_table = room->bytes + room->used;
    line_table_begin(&writer, HEAP_FRAMES ? LINE_TABLE_PAIRS : LINE_TABLE_LOCATIONS, object->co_firstlineno,
                     code->line_table, room->room - room->used);
    uintptr_t next = (uintptr_t)object->co_linetable + offsetof(PyBytesObject, ob_sval),
              end = next + (uintptr_t)length;
    if (end < next)
        return false;
    while (next < end && !writer.full) {
        uint8_t piece[PIECE];
        uint32_t now = end - next < PIECE ? (uint32_t)(end - next) : PIECE;
        if (!copy_piece(copy, next, piece, now))
            return false;
        line_table_feed(&writer, piece, now);
        next += now;
    }
    code->line_table_bytes = line_table_end(&writer);
    room->used += code->line_table_bytes;
    room->full = writer.full;
    return !writer.full;
}

#ifdef FRAMES_FORGET_CODE
/* Instructions lie behind the object's head: the nearest head before them that has them. */
uintptr_t code_around(struct copy *copy, uintptr_t instruction)
{
    uint8_t bytes[LOOK_BACK_MOST] __attribute__((aligned(8)));
    uintptr_t end = instruction & ~(uintptr_t)(sizeof(void *) - 1);
    for (size_t piece = LOOK_BACK_FIRST; piece <= sizeof bytes && end > piece; piece *= 2) {
        const uintptr_t start = end - piece;
        if (!copy_piece(copy, start, bytes, piece))
            return 0;
        for (size_t at = piece; at > 0; at -= sizeof(void *)) {
            union code_head head;
            const uintptr_t address = start + at - sizeof(void *) - offsetof(PyObject, ob_type);
            if (word_at(bytes + at - sizeof(void *)) == (uintptr_t)&PyCode_Type &&
                copy_head(copy, address, &head) &&
                instruction - (address + CODE_HEAD) < 2 * (uintptr_t)Py_SIZE(&head.code))
                return address;
        }
        end = start;
    }
    return 0;
}
#else
uintptr_t code_around(struct copy *copy, uintptr_t instruction)
{
    (void)copy, (void)instruction;
    return 0;
}
#endif

bool code_resolve(struct copy *copy, uintptr_t address, struct code *code, struct code_room *room)
{
    union code_head head;
    if (!copy_head(copy, address, &head))
        return false;
    const PyCodeObject *object = &head.code;
    Py_ssize_t instructions = count_instructions(copy, object);
    if (instructions < 0)
        return false;
    memset(code, 0, sizeof *code);
    code->address = address;
#ifdef FRAMES_FORGET_CODE
    code->first_instruction = address + CODE_HEAD;
#endif
    code->instructions = (uint32_t)instructions;
    code->frame_bytes = (uint32_t)(code_frame_words(object) * sizeof(void *));
    code->first_traceable = code_first_traceable(object) < 0 ? 0 : (uint32_t)code_first_traceable(object);
    code->first_line = object->co_firstlineno < 0 ? 0 : (uint32_t)object->co_firstlineno;
    code->identity = identify(object);
    code->file = copy_string(copy, (uintptr_t)object->co_filename, room);
    code->name = code->file == NULL ? NULL : copy_string(copy, (uintptr_t)code_qualified_name(object), room);
    if (code->name == NULL)
        return false;
#if !HEAP_FRAMES
    if (!copy_calls(copy, address, code, room))
        return false;
#endif
    return copy_lines(copy, object, code, room);
}
