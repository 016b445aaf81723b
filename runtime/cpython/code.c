/*
 * Code table: see code.h. An open-addressing hash of small slots (all that a walk touches), the entries
 * behind it, and an arena for their strings.
 *
 * An entry that is taken out of the hash (its object died, or turned out to be another) waits in the list of
 * dead until codes_sweep, so that pointers handed out since the last sweep stay good. An entry that was
 * resolved is proven when the object is still the same at its second sight in a later read: what a torn stack
 * named in a moment between a death and a birth at the same address is then replaced before it can be
 * believed.
 */
#include "runtime/cpython/code.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/cpython/code_table.h"
#include "runtime/cpython/line_table.h"
#include "runtime/tick_path.h"
#include "shm/fault.h"

enum {
    SLOTS = 2 * CODES_MAX,
    SLOT_BITS = 14,
    NEAR = 256,       /* codes of recent stacks, kept close together */
    NEAR_READS = 256, /* reads after which they are looked up in the hash again, where their age is noted */
    LINES = 1 << 14,  /* pieces of 64 bytes of bytecode whose code object is remembered */
    LINES_OF_ONE = 1 << 11,
    NOBODY = UINT32_MAX,
    SHORT_OF_ENTRIES = CODES_MAX - CODES_MAX / 8,
    SHORT_OF_ARENA = CODES_ARENA - CODES_ARENA / 8,
};
_Static_assert(SLOTS == 1 << SLOT_BITS, "a power of two");

/* What stands before each code object's strings in the arena. */
struct block {
    uint32_t entry; /* NOBODY: nobody's any more */
    uint32_t bytes; /* of the block, this head included; a multiple of 8 */
};

static struct {
    struct code_slot *slots; /* NULL: not open */
    /* Copies of proven slots. The hash is large and a stack's slots lie all over it: after the 10 ms between
     * two ticks each of them would cost a miss in the cache and one in the TLB. */
    struct code_slot near[NEAR];
    struct code *entries;
    uint32_t *next;   /* links of the free list and of the list of dead, by entry */
    uintptr_t *lines; /* by address of the piece: the code object that it is probably part of */
    uint8_t *arena;
    uint32_t *block; /* offset of an entry's block in the arena */
    uint32_t arena_used;
    uint32_t fresh; /* entries from here on were never used */
    uint32_t free, dead;
    uint32_t live;
    uint32_t read;   /* number of this read */
    uint64_t deaths; /* deaths that were taken note of */
} table;

static uint32_t slot_of(uintptr_t address)
{
    return (uint32_t)(((uint64_t)address >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> (64 - SLOT_BITS));
}

static void *map_memory(size_t bytes)
{
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return map == MAP_FAILED ? NULL : map;
}

static struct code_slot *near_of(uintptr_t address)
{
    return &table.near[slot_of(address) % NEAR];
}

static void empty(void)
{
    memset(table.near, 0, sizeof table.near);
    table.arena_used = table.fresh = table.live = 0;
    table.free = table.dead = NOBODY;
    table.deaths = codes_deaths();
}

int codes_open(void)
{
    if (table.slots != NULL)
        return 0;
    const size_t slots = SLOTS * sizeof(struct code_slot), entries = CODES_MAX * sizeof(struct code),
                 numbers = CODES_MAX * sizeof(uint32_t), lines = LINES * sizeof(uintptr_t);
    uint8_t *memory = map_memory(slots + entries + 2 * numbers + lines + CODES_ARENA);
    if (memory == NULL)
        return fault(ENOMEM, "no memory for the table of code objects");
    table.slots = (struct code_slot *)(void *)memory;
    table.entries = (struct code *)(void *)(memory + slots);
    table.next = (uint32_t *)(void *)(memory + slots + entries);
    table.block = (uint32_t *)(void *)(memory + slots + entries + numbers);
    table.lines = (uintptr_t *)(void *)(memory + slots + entries + 2 * numbers);
    table.arena = memory + slots + entries + 2 * numbers + lines;
    empty();
    return 0;
}

void codes_after_fork(void)
{
    if (table.slots == NULL)
        return;
    memset(table.slots, 0, SLOTS * sizeof(struct code_slot));
    empty();
}

void codes_forget_definitions(void)
{
    for (uint32_t i = 0; i < table.fresh; i++)
        table.entries[i].definition = 0;
}

/* Take slot `i` out of the hash, closing the gap, and put its entry into the list of dead. */
static void forget(uint32_t i)
{
    uint32_t entry = table.slots[i].entry;
    struct code_slot *near = near_of(table.slots[i].address);
    if (near->address == table.slots[i].address)
        near->address = 0;
    table.next[entry] = table.dead;
    table.dead = entry;
    table.live--;
    for (uint32_t gap = i, j = (i + 1) % SLOTS;; j = (j + 1) % SLOTS) {
        if (table.slots[j].address == 0) {
            table.slots[gap].address = 0;
            return;
        }
        /* j may fill the gap only if its home does not lie between the gap and j. */
        uint32_t home = slot_of(table.slots[j].address);
        if ((j - home) % SLOTS >= (j - gap) % SLOTS) {
            table.slots[gap] = table.slots[j];
            gap = j;
        }
    }
}

/* The slot of `address`, or the empty one where it would stand. */
static uint32_t find(uintptr_t address)
{
    uint32_t i = slot_of(address);
    while (table.slots[i].address != address && table.slots[i].address != 0)
        i = (i + 1) % SLOTS;
    return i;
}

static void forget_all(void)
{
    for (uint32_t i = 0; i < SLOTS; i++) {
        while (table.slots[i].address != 0)
            forget(i);
    }
}

TICK_PATH uint64_t codes_begin(void)
{
    uint64_t now = codes_deaths();
    table.read++;
    while (table.deaths != now) {
        uintptr_t dead;
        if (!deaths_get(table.deaths, &dead)) {
            forget_all();
            table.deaths = now;
            break;
        }
        table.deaths++;
        uint32_t i = find(dead);
        if (table.slots[i].address != 0)
            forget(i);
    }
    return now;
}

static uint32_t take_entry(void)
{
    uint32_t entry = table.free;
    if (entry != NOBODY)
        table.free = table.next[entry];
    else if (table.fresh < CODES_MAX)
        entry = table.fresh++;
    return entry;
}

static uint32_t line_of(uintptr_t instruction)
{
    return (uint32_t)((uint64_t)(instruction >> 6) * UINT64_C(0x9e3779b97f4a7c15) >> 50);
}
_Static_assert(LINES == 1 << (64 - 50), "line_of");

static void remember_lines(const struct code *code)
{
    if (code->first_instruction == 0)
        return;
    uintptr_t end = code->first_instruction + 2 * (uintptr_t)code->instructions;
    uint32_t n = 0;
    for (uintptr_t at = code->first_instruction & ~(uintptr_t)63; at < end && n < LINES_OF_ONE; at += 64, n++)
        table.lines[line_of(at)] = code->address;
}

/* Resolve `address` into a new entry and the empty slot `i`. */
static struct code_slot *add(struct copy *copy, uintptr_t address, uint32_t i, bool *full)
{
    uint32_t offset = table.arena_used;
    if (CODES_ARENA - offset < 2 * sizeof(struct block) ||
        (table.free == NOBODY && table.fresh == CODES_MAX)) {
        *full = true;
        return NULL;
    }
    struct code_room room = {table.arena + offset + sizeof(struct block), 0,
                             CODES_ARENA - offset - (uint32_t)sizeof(struct block) - 8, false};
    struct code code;
    if (!code_resolve(copy, address, &code, &room)) {
        *full = *full || room.full;
        return NULL;
    }
    uint32_t entry = take_entry();
    struct block block = {entry, (uint32_t)((sizeof block + room.used + 7) & ~(size_t)7)};
    memcpy(table.arena + offset, &block, sizeof block);
    table.arena_used = offset + block.bytes;
    table.block[entry] = offset;
    code.seen = table.read;
    table.entries[entry] = code;
    table.slots[i] = (struct code_slot){
        .address = address,
        .entry = entry,
        .frame_bytes = code.frame_bytes,
        .instructions = code.instructions,
        .first_traceable = code.first_traceable,
        .seen = table.read,
    };
    table.live++;
    remember_lines(&code);
    return &table.slots[i];
}

TICK_PATH struct code_slot *codes_lookup(struct copy *copy, uintptr_t address, bool *full)
{
    if (address == 0)
        return NULL;
    struct code_slot *near = near_of(address);
    if (near->address == address && table.read - near->seen < NEAR_READS)
        return near;
    uint32_t i = find(address);
    struct code_slot *slot = &table.slots[i];
    if (slot->address != 0 && slot->proven) {
        slot->seen = table.read;
        *near = *slot;
        return near;
    }
    if (slot->address != 0) {
        if (slot->seen == table.read)
            return slot;
        if (code_is_same(copy, &table.entries[slot->entry])) {
            slot->proven = true;
            slot->seen = table.read;
            return slot;
        }
        forget(i);
        i = find(address);
    }
    return add(copy, address, i, full);
}

static bool has_instruction(const struct code_slot *slot, uintptr_t instruction)
{
    return slot->address != 0 &&
           instruction - table.entries[slot->entry].first_instruction < 2 * (uintptr_t)slot->instructions;
}

/* A function that returns quickly may never have been seen before it did; and another's lines may have taken
 * the place of its own. */
struct code_slot *codes_around(struct copy *copy, uintptr_t instruction, bool *full)
{
    uintptr_t address = table.lines[line_of(instruction)];
    if (address == 0 || !has_instruction(&table.slots[find(address)], instruction)) {
        address = code_around(copy, instruction);
        struct code_slot *found = codes_lookup(copy, address, full);
        if (found == NULL || !has_instruction(found, instruction))
            return NULL;
        remember_lines(&table.entries[found->entry]);
        return found;
    }
    struct code_slot *slot = &table.slots[find(address)];
    slot->seen = table.read;
    return slot;
}

TICK_PATH struct code *codes_entry(const struct code_slot *slot)
{
    return &table.entries[slot->entry];
}

struct code *codes_find(struct copy *copy, uintptr_t address, bool *full)
{
    bool ignored = false;
    const struct code_slot *slot = codes_lookup(copy, address, full != NULL ? full : &ignored);
    return slot == NULL ? NULL : codes_entry(slot);
}

/* Forget the half of the table that was seen least lately. */
static void forget_old(void)
{
    uint32_t histogram[33] = {0};
    for (uint32_t i = 0; i < SLOTS; i++) {
        uint32_t age = table.read - table.slots[i].seen;
        if (table.slots[i].address != 0)
            histogram[age == 0 ? 0 : 32 - __builtin_clz(age)]++;
    }
    uint32_t keep = 0, kept = histogram[0];
    while (keep < 32 && kept + histogram[keep + 1] <= CODES_MAX / 2)
        kept += histogram[++keep];
    /* `keep` is the number of bits of the greatest age that stays. */
    for (uint32_t i = 0; i < SLOTS; i++) {
        while (table.slots[i].address != 0) {
            uint32_t age = table.read - table.slots[i].seen;
            if (age == 0 || (uint32_t)(32 - __builtin_clz(age)) <= keep)
                break;
            forget(i);
        }
    }
}

/* Slide the blocks that are still somebody's together. */
static void compact(void)
{
    uint32_t to = 0;
    for (uint32_t from = 0; from < table.arena_used;) {
        struct block block;
        memcpy(&block, table.arena + from, sizeof block);
        if (block.entry != NOBODY) {
            if (to != from) {
                struct code *code = &table.entries[block.entry];
                ptrdiff_t moved = (ptrdiff_t)to - (ptrdiff_t)from;
                memmove(table.arena + to, table.arena + from, block.bytes);
                code->file += moved;
                code->name += moved;
                code->calls += code->calls != NULL ? moved : 0;
                code->line_table += moved;
                table.block[block.entry] = to;
            }
            to += block.bytes;
        }
        from += block.bytes;
    }
    table.arena_used = to;
}

uint32_t codes_sweep(void)
{
    if (table.slots == NULL)
        return 0;
    if (table.live > SHORT_OF_ENTRIES || table.arena_used > SHORT_OF_ARENA)
        forget_old();
    while (table.dead != NOBODY) {
        uint32_t entry = table.dead;
        const struct block nobody = {NOBODY, 0};
        table.dead = table.next[entry];
        memcpy(table.arena + table.block[entry], &nobody.entry, sizeof nobody.entry);
        table.next[entry] = table.free;
        table.free = entry;
    }
    if (table.arena_used > SHORT_OF_ARENA)
        compact();
    return table.live;
}

uint32_t code_line(const struct code *code, uint32_t instruction)
{
    return line_table_find(code->line_table, code->line_table_bytes, code->first_line, instruction);
}
