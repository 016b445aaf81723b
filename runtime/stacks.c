/* The trie of stacks: see stacks.h. */
#include "runtime/stacks.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/tick_path.h"
#include "runtime/types.h"
#include "shm/fault.h"

enum {
    NODES = 16384,
    NODE_INDEX = 4 * NODES, /* open addressing */
    FILES = 2048,
    FILE_INDEX = 4 * FILES,
    LINES = 8192, /* direct-mapped: (code, instruction) -> line */
    ROOTS = 64,
    ROOTS_BYTES = 16 << 10,
};

struct node {
    uint32_t parent, code, line;
};

struct file {
    uint32_t hash;
    uint32_t string;    /* its definition */
    uint32_t file_code; /* definition of the code that stands for the whole file; 0: none yet */
    const char *name;   /* in the segment's definition area, which never changes */
    uint32_t length;
};

struct line {
    const struct code *code;
    uint32_t instruction;
    uint32_t line;
};

static struct {
    uint32_t nodes, codes, strings, files;
    uint32_t epoch;
    uint32_t granularity;        /* code->definition holds ids of methods at this granularity or finer */
    struct node node[NODES + 1]; /* by id; 0 is no node */
    uint32_t node_index[NODE_INDEX];
    struct file file[FILES + 1];
    uint16_t file_index[FILE_INDEX];
    struct line line[LINES];
} * trie;

/* Only ever grows: entries below `count`, which is stored with release, do not change any more. */
static struct {
    _Atomic int count;
    uint32_t used;
    uint32_t length[ROOTS];
    const char *path[ROOTS];
    char bytes[ROOTS_BYTES];
} roots;

int stacks_open(void)
{
    if (trie != NULL)
        return 0;
    void *memory = mmap(NULL, sizeof *trie, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return fault(errno, "memory for stacks");
    trie = memory;
    trie->epoch = 1;
    return 0;
}

static bool is_root(const char *path, size_t length, int known)
{
    for (int i = 0; i < known; i++)
        if (roots.length[i] == length && memcmp(roots.path[i], path, length) == 0)
            return true;
    return false;
}

void stacks_add_roots(const char *const *paths, int count)
{
    int known = atomic_load_explicit(&roots.count, memory_order_relaxed);
    for (int i = 0; i < count && known < ROOTS; i++) {
        size_t length = strlen(paths[i]);
        while (length > 1 && paths[i][length - 1] == '/')
            length--;
        if (length < 2 || roots.used + length > ROOTS_BYTES || is_root(paths[i], length, known))
            continue;
        memcpy(roots.bytes + roots.used, paths[i], length);
        roots.path[known] = roots.bytes + roots.used;
        roots.length[known] = (uint32_t)length;
        roots.used += (uint32_t)length;
        atomic_store_explicit(&roots.count, ++known, memory_order_release);
    }
}

/* "/srv/app/shop/db.py" is "shop/db.py" where /srv/app is a folder that modules are imported from. */
static const char *shorten(const char *file)
{
    uint32_t best = 0;
    int known = atomic_load_explicit(&roots.count, memory_order_acquire);
    for (int i = 0; i < known; i++) {
        uint32_t length = roots.length[i];
        if (length > best && strncmp(file, roots.path[i], length) == 0 && file[length] == '/' &&
            file[length + 1] != '\0')
            best = length;
    }
    return best != 0 ? file + best + 1 : file;
}

void stacks_forget_codes(void)
{
    trie->epoch++;
    memset(trie->line, 0, sizeof trie->line);
}

void stacks_reset(void)
{
    if (trie == NULL)
        return;
    trie->nodes = trie->codes = trie->strings = trie->files = 0;
    memset(trie->node_index, 0, sizeof trie->node_index);
    memset(trie->file_index, 0, sizeof trie->file_index);
    stacks_forget_codes();
    codes_forget_definitions();
}

static struct file *find_file(struct segment *segment, const char *name)
{
    uint32_t length = (uint32_t)strlen(name);
    uint32_t hash = hash_bytes(name, length);
    uint32_t at = hash & (FILE_INDEX - 1);
    for (; trie->file_index[at] != 0; at = (at + 1) & (FILE_INDEX - 1)) {
        struct file *file = &trie->file[trie->file_index[at]];
        if (file->hash == hash && file->length == length && memcmp(file->name, name, length) == 0)
            return file;
    }
    if (trie->files == FILES)
        return NULL;
    struct definitions *area = &segment->definitions[DEFINITIONS_SAMPLER];
    uint64_t text_at = atomic_load_explicit(area->used, memory_order_relaxed) + sizeof(struct define_string);
    struct define_string definition = {.header = {.kind = DEFINE_STRING}, .length = length};
    if (!definitions_put(area, &definition, sizeof definition, name, length))
        return NULL;
    struct file *file = &trie->file[++trie->files];
    *file = (struct file){.hash = hash,
                          .string = ++trie->strings,
                          .name = (const char *)area->data + text_at,
                          .length = length};
    trie->file_index[at] = (uint16_t)trie->files;
    return file;
}

static uint32_t define_code(struct segment *segment, uint32_t file_string, uint32_t first_line,
                            const char *name)
{
    uint32_t length = (uint32_t)strlen(name);
    struct define_code definition = {
        .header = {.kind = DEFINE_CODE}, .file = file_string, .first_line = first_line, .length = length};
    if (!definitions_put(&segment->definitions[DEFINITIONS_SAMPLER], &definition, sizeof definition, name,
                         length))
        return 0;
    return ++trie->codes;
}

/* The code's definition at this granularity; 0 if there is no room. */
static uint32_t code_id(struct segment *segment, struct code *code, uint32_t granularity)
{
    if (granularity != GRANULARITY_FILE && code->definition != 0)
        return code->definition;
    struct file *file = find_file(segment, shorten(code->file));
    if (file == NULL)
        return 0;
    if (granularity == GRANULARITY_FILE) {
        if (file->file_code == 0)
            file->file_code = define_code(segment, file->string, 0, "");
        return file->file_code;
    }
    code->definition = define_code(segment, file->string, code->first_line, code->name);
    return code->definition;
}

static uint32_t line_of(const struct code *code, uint32_t instruction)
{
    uint64_t key = ((uint64_t)(uintptr_t)code >> 4) * UINT64_C(0x9E3779B97F4A7C15) +
                   instruction * UINT64_C(0xC2B2AE3D27D4EB4F);
    struct line *line = &trie->line[(key >> 40) & (LINES - 1)];
    if (line->code != code || line->instruction != instruction)
        *line = (struct line){code, instruction, code_line(code, instruction)};
    return line->line;
}

static uint32_t find_node(struct segment *segment, uint32_t parent, uint32_t code, uint32_t line)
{
    uint64_t key = (uint64_t)parent * UINT64_C(0x9E3779B97F4A7C15) ^
                   (uint64_t)code * UINT64_C(0xC2B2AE3D27D4EB4F) ^
                   (uint64_t)line * UINT64_C(0x165667B19E3779F9);
    uint32_t at = (uint32_t)(key >> 36) & (NODE_INDEX - 1);
    for (; trie->node_index[at] != 0; at = (at + 1) & (NODE_INDEX - 1)) {
        uint32_t id = trie->node_index[at];
        const struct node *node = &trie->node[id];
        if (node->parent == parent && node->code == code && node->line == line)
            return id;
    }
    if (trie->nodes == NODES)
        return 0;
    struct define_node definition = {
        .header = {.kind = DEFINE_NODE}, .parent = parent, .code = code, .line = line};
    if (!definitions_put(&segment->definitions[DEFINITIONS_SAMPLER], &definition, sizeof definition, NULL, 0))
        return 0;
    uint32_t id = ++trie->nodes;
    trie->node[id] = (struct node){parent, code, line};
    trie->node_index[at] = id;
    return id;
}

/* The node of `frame` called from `parent`; 0 if there is no room for it. */
static uint32_t intern_frame(struct segment *segment, uint32_t parent, const struct stack_frame *frame,
                             uint32_t granularity, struct stack_memory *memory)
{
    struct stack_recent *recent =
        &memory->recent[(frame->instruction ^ parent ^ (uint32_t)((uintptr_t)frame->code >> 6)) &
                        (STACK_RECENT - 1)];
    if (recent->node != 0 && recent->code == frame->code && recent->instruction == frame->instruction &&
        recent->parent == parent)
        return recent->node;
    uint32_t code = code_id(segment, frame->code, granularity);
    uint32_t line = granularity == GRANULARITY_LINE ? line_of(frame->code, frame->instruction) : 0;
    uint32_t node = code != 0 ? find_node(segment, parent, code, line) : 0;
    if (node != 0)
        *recent = (struct stack_recent){frame->code, frame->instruction, parent, node};
    return node;
}

TICK_PATH uint32_t stacks_intern(struct segment *segment, const struct stack *stack, uint32_t granularity,
                                 struct stack_memory *memory, bool *overflow)
{
    if (granularity != trie->granularity) {
        trie->granularity = granularity;
        stacks_forget_codes();
    }
    if (memory->epoch != trie->epoch) {
        memory->epoch = trie->epoch;
        memory->count = 0;
        memset(memory->recent, 0, sizeof memory->recent);
    }
    uint32_t depth = 0, node = 0;
    while (depth < memory->count && depth < stack->count &&
           memory->frame[depth].code == stack->frame[stack->count - 1 - depth].code &&
           memory->frame[depth].instruction == stack->frame[stack->count - 1 - depth].instruction)
        node = memory->frame[depth++].node;
    memory->count = depth;
    for (; depth < stack->count; depth++) {
        const struct stack_frame *frame = &stack->frame[stack->count - 1 - depth];
        uint32_t next = intern_frame(segment, node, frame, granularity, memory);
        if (next == 0) {
            *overflow = true;
            return node;
        }
        node = next;
        if (depth < STACK_MEMORY) {
            memory->frame[depth].code = frame->code;
            memory->frame[depth].instruction = frame->instruction;
            memory->frame[depth].node = node;
            memory->count = depth + 1;
        }
    }
    return node;
}
