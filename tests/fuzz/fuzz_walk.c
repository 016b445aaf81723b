/*
 * Fuzzing what the sampler may find in the interpreter's memory. Built for each interpreter that scons is
 * told of, by
 *
 *     scons cc=clang sanitize=address,undefined python=…      into …/tests/fuzz_walk-3.11 and so on
 *
 * Nothing of an interpreter runs: an input is an image of memory (walk_image.h) and steps that change it
 * between two copies or in the middle of a gather. The files of runtime/cpython/ read it as they are; only
 * copy.c, which asks the kernel, is replaced by what stands here.
 *
 * Nothing may crash or be read that was not copied (what lies behind is poisoned), a read ends after a
 * bounded number of copies, and what it gives is whole: known code, instructions inside it, text that ends.
 */
#include <sanitizer/asan_interface.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cpython/code_table.h"
#include "runtime/cpython/layout.h"
#include "runtime/cpython/reader.h"
#include "runtime/cpython/reader_start.h"
#include "shm/fault.h"
#include "tests/fuzz/walk_image.h"

#if __has_feature(memory_sanitizer)
#include <sanitizer/msan_interface.h>
#else
#define __msan_allocated_memory(address, bytes) ((void)(address), (void)(bytes))
#define __msan_unpoison(address, bytes) ((void)(address), (void)(bytes))
#endif

/* ---- what the reader links to of an interpreter -------------------------------------------------------- */

_PyRuntimeState _PyRuntime;
PyTypeObject PyCode_Type, PyUnicode_Type, PyBytes_Type, PyFrame_Type, PyLong_Type, PyBool_Type;
static PyInterpreterState main_interpreter;
static PyThreadState main_thread;

PyThreadState *PyThreadState_Get(void)
{
    return &main_thread;
}

PyThreadState *PyGILState_GetThisThreadState(void)
{
    return &main_thread;
}

PyInterpreterState *PyInterpreterState_Main(void)
{
    return &main_interpreter;
}

static void free_nothing(PyObject *object)
{
    (void)object;
}

static struct _gil_runtime_state *the_gil(void)
{
#if PY_VERSION_HEX >= 0x030c0000
    return main_interpreter.ceval.gil;
#else
    return &_PyRuntime.ceval.gil;
#endif
}

static void set_gil(uint8_t how, uintptr_t tstate)
{
    uintptr_t holder = how == 2 ? tstate : (uintptr_t)&main_thread;
    int locked = how != 0;
    memcpy(&the_gil()->locked, &locked, sizeof locked);
    memcpy(&the_gil()->last_holder, &holder, sizeof holder);
}

/* ---- the image ----------------------------------------------------------------------------------------- */

enum step {
    STEP_COPY,   /* a word becomes the one `value` words away */
    STEP_ADD,    /* … is moved by `value` words */
    STEP_SMALL,  /* … becomes `value` */
    STEP_NEAR,   /* … points to `value` words behind itself */
    STEP_SYMBOL, /* … becomes the type of code objects or the like */
    STEP_SHORT,  /* the copy ends here */
    STEP_ERROR,  /* nothing can be copied any more, until the scratch was opened anew */
    STEP_SHUT,   /* … which fails at first */
    STEP_DEATH,  /* the code object there dies */
    STEP_GIL,    /* is held by nobody, somebody, this thread */
    STEP_KINDS,
};

enum {
    READS_MOST = 8,
    LISTED_MOST = 4,
    /* A gather, its chunks and single frames; looks at code objects, for each frame at that of a few others.
     */
    COPIES_A_READ = 10 * (1 + 1500 + STACK_FRAMES * 17 * 12),
};

static struct {
    struct walk_image head;
    struct walk_region region[WALK_REGIONS];
    uint32_t first[WALK_REGIONS]; /* of a region, in `bytes` */
    struct walk_step step[WALK_STEPS];
    unsigned steps;
    uint8_t bytes[WALK_BYTES] __attribute__((aligned(8)));
    uint32_t copies; /* in this input */
    bool broken, shut, cut;
    bool real; /* the program's own memory is served */
} image;

static uint8_t gathered[COPY_BYTES] __attribute__((aligned(4096)));

static bool load(const uint8_t *data, size_t size)
{
    if (size < sizeof image.head)
        return false;
    memcpy(&image.head, data, sizeof image.head);
    size_t at = sizeof image.head;
    unsigned regions = image.head.regions % (WALK_REGIONS + 1);
    image.steps = image.head.steps % (WALK_STEPS + 1);
    image.copies = 0;
    image.broken = image.shut = image.cut = false;
    if (size - at < regions * sizeof image.region[0] + image.steps * sizeof image.step[0])
        return false;
    memcpy(image.region, data + at, regions * sizeof image.region[0]);
    at += regions * sizeof image.region[0];
    memcpy(image.step, data + at, image.steps * sizeof image.step[0]);
    at += image.steps * sizeof image.step[0];
    uint32_t used = 0;
    for (unsigned i = 0; i < regions; i++) {
        if (image.region[i].bytes > WALK_BYTES - used)
            image.region[i].bytes = WALK_BYTES - used;
        image.first[i] = used;
        used += image.region[i].bytes;
    }
    image.head.regions = (uint8_t)regions;
    size_t there = size - at < used ? size - at : used;
    memcpy(image.bytes, data + at, there);
    memset(image.bytes + there, 0, used - there);
    return true;
}

/* Where the byte at `offset` is kept, and how many follow it; NULL: nowhere. */
static uint8_t *find_bytes(uint32_t offset, size_t *follow)
{
    for (unsigned i = 0; i < image.head.regions; i++) {
        uint32_t into = offset - image.region[i].at;
        if (into < image.region[i].bytes) {
            *follow = image.region[i].bytes - into;
            return image.bytes + image.first[i] + into;
        }
    }
    return NULL;
}

/* How many zeros can be read at `offset`, where no region is: up to the next one, or to the end of the MiB.
 */
static size_t find_zeros(uint32_t offset)
{
    const uint32_t granule = offset >> WALK_GRANULE_BITS;
    uint64_t end = (uint64_t)(granule + 1) << WALK_GRANULE_BITS;
    bool filled = false;
    for (unsigned i = 0; i < image.head.regions && image.head.filled % 2 != 0; i++) {
        filled = filled || image.region[i].at >> WALK_GRANULE_BITS == granule;
        if (image.region[i].at > offset && image.region[i].at < end)
            end = image.region[i].at;
    }
    return filled ? end - offset : 0;
}

static uint8_t *find_word(uint32_t offset)
{
    size_t follow;
    uint8_t *found = find_bytes(offset & ~UINT32_C(7), &follow);
    return found != NULL && follow >= 8 ? found : NULL;
}

static void do_step(const struct walk_step *step)
{
    uint8_t *at = find_word(step->at), *other = find_word(step->at + 8 * (uint32_t)(int8_t)step->value);
    uint64_t word = 0;
    if (at != NULL)
        memcpy(&word, at, sizeof word);
    switch (step->what % STEP_KINDS) {
    case STEP_COPY:
        if (other != NULL)
            memcpy(&word, other, sizeof word);
        break;
    case STEP_ADD:
        word += 8 * (uint64_t)(int8_t)step->value;
        break;
    case STEP_SMALL:
        word = step->value;
        break;
    case STEP_NEAR:
        word = WALK_BASE + step->at + 8 * (uint64_t)step->value;
        break;
    case STEP_SYMBOL:
        word = WALK_SYMBOL(step->value % WALK_SYMBOLS);
        break;
    case STEP_SHORT:
        image.cut = true;
        break;
    case STEP_ERROR:
        image.broken = true;
        break;
    case STEP_SHUT:
        image.broken = image.shut = true;
        break;
    case STEP_DEATH:
        PyCode_Type.tp_dealloc((PyObject *)(uintptr_t)(WALK_BASE + step->at));
        break;
    case STEP_GIL:
        set_gil(step->value % 3, WALK_BASE + image.head.tstate);
        break;
    }
    if (at != NULL)
        memcpy(at, &word, sizeof word);
}

static void count_copy(void)
{
    for (unsigned i = 0; i < image.steps; i++)
        if (image.step[i].copy == (uint16_t)image.copies)
            do_step(&image.step[i]);
    image.copies++;
}

/* The addresses of what stands in this program are not in any image. */
static void put_symbols(uint8_t *out, size_t bytes)
{
    const uintptr_t symbols[WALK_SYMBOLS] = {
        [WALK_CODE_TYPE] = (uintptr_t)&PyCode_Type,
        [WALK_UNICODE_TYPE] = (uintptr_t)&PyUnicode_Type,
        [WALK_BYTES_TYPE] = (uintptr_t)&PyBytes_Type,
        [WALK_FRAME_TYPE] = (uintptr_t)&PyFrame_Type,
        [WALK_GIL] = (uintptr_t)the_gil(),
    };
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t word;
        memcpy(&word, out + i, sizeof word);
        uint64_t n = (word - WALK_SYMBOL(0)) / 0x100;
        if (word >= WALK_SYMBOL(1) && word == WALK_SYMBOL(n) && n < WALK_SYMBOLS)
            memcpy(out + i, &symbols[n], sizeof symbols[n]);
    }
}

/* How many bytes of the image are at `address`, up to `bytes`: copied to `out`. */
static size_t serve(uintptr_t address, uint8_t *out, size_t bytes)
{
    if (image.real) {
        memcpy(out, (const void *)address, bytes);
        return bytes;
    }
    uint64_t offset = address - WALK_BASE;
    if (address - (uintptr_t)&_PyRuntime < sizeof _PyRuntime)
        offset = WALK_RUNTIME + (address - (uintptr_t)&_PyRuntime);
    size_t done = 0;
    while (done < bytes && offset + done <= UINT32_MAX) {
        size_t follow;
        const uint8_t *found = find_bytes((uint32_t)(offset + done), &follow);
        if (found == NULL)
            follow = find_zeros((uint32_t)(offset + done));
        if (follow == 0)
            break;
        size_t now = follow < bytes - done ? follow : bytes - done;
        if (found != NULL)
            memcpy(out + done, found, now);
        else
            memset(out + done, 0, now);
        done += now;
    }
    if (address % 8 == 0)
        put_symbols(out, done);
    return done;
}

/* ---- in the place of copy.c ---------------------------------------------------------------------------- */

static size_t gathered_most = sizeof gathered; /* what lies behind is poisoned already */

static void poison(void)
{
    __asan_poison_memory_region(gathered, gathered_most);
    __msan_allocated_memory(gathered, gathered_most);
    gathered_most = 0;
}

int copy_open(struct copy *copy)
{
    memset(copy, 0, sizeof *copy);
    copy->fd = -1;
    if (image.shut) {
        image.shut = false;
        return fault(EPERM, "copies");
    }
    image.broken = false;
    copy->bytes = gathered;
    return 0;
}

void copy_close(struct copy *copy)
{
    poison();
    memset(copy, 0, sizeof *copy);
    copy->fd = -1;
}

void copy_forget(struct copy *copy)
{
    copy_close(copy);
}

ssize_t copy_gather(struct copy *copy, const struct iovec *pieces, int count)
{
    size_t done = 0;
    poison();
    for (int i = 0; i < count; i++) {
        count_copy();
        if (copy->bytes == NULL || image.broken)
            return -EBADF;
        if (done + pieces[i].iov_len > COPY_BYTES)
            abort(); /* more than fits was asked for */
        gathered_most = done + pieces[i].iov_len;
        __asan_unpoison_memory_region(gathered + done, pieces[i].iov_len);
        size_t got = serve((uintptr_t)pieces[i].iov_base, gathered + done, pieces[i].iov_len);
        if (image.cut)
            got /= 2;
        __asan_poison_memory_region(gathered + done + got, pieces[i].iov_len - got);
        done += got;
        if (got < pieces[i].iov_len)
            break;
    }
    image.cut = false;
    return (ssize_t)done;
}

bool copy_piece(struct copy *copy, uintptr_t address, void *out, size_t bytes)
{
    (void)copy;
    count_copy();
    size_t got = serve(address, out, bytes);
    bool came = got == bytes && !image.cut && !image.broken;
    image.cut = false;
    return came;
}

/* ---- mutations ----------------------------------------------------------------------------------------- */

/*
 * Blind mutations mostly break the image's own tables or text that nobody minds. These go for what the reader
 * goes by: pointers, lengths, counts, types, and for when they change.
 */
static uint64_t drawn;

static uint32_t draw(uint32_t below)
{
    drawn ^= drawn << 13;
    drawn ^= drawn >> 7;
    drawn ^= drawn << 17;
    return below != 0 ? (uint32_t)((drawn >> 16) % below) : 0;
}

/* The offset of some word of the image. */
static uint32_t some_place(const struct walk_image *head, const uint8_t *regions)
{
    struct walk_region region;
    if (head->regions == 0)
        return draw(UINT32_MAX);
    memcpy(&region, regions + draw(head->regions) * sizeof region, sizeof region);
    return (region.at + draw(region.bytes)) & ~UINT32_C(7);
}

/* The offset at which byte number `into` of the image stands. */
static uint32_t place_of(const struct walk_image *head, const uint8_t *regions, size_t into)
{
    struct walk_region region = {0, 0};
    for (unsigned i = 0; i < head->regions; i++) {
        memcpy(&region, regions + i * sizeof region, sizeof region);
        if (into < region.bytes)
            break;
        into -= region.bytes;
    }
    return region.at + (uint32_t)into;
}

static void change_word(const struct walk_image *head, const uint8_t *regions, uint8_t *bytes, size_t words)
{
    uint8_t *at = bytes + 8 * draw((uint32_t)words);
    uint64_t word;
    memcpy(&word, at, sizeof word);
    switch (draw(9)) {
    case 8: /* to itself, or shortly before */
        word = WALK_BASE + place_of(head, regions, (size_t)(at - bytes)) - 8 * (uint64_t)draw(16);
        break;
    case 0: /* another's */
        memcpy(&word, bytes + 8 * draw((uint32_t)words), sizeof word);
        break;
    case 1: /* a little further */
        word += 8 * (uint64_t)draw(64) - 256;
        break;
    case 2:
        word = draw(5);
        break;
    case 3: /* large, or negative */
        word = (UINT64_C(1) << draw(64)) - draw(3);
        break;
    case 4:
        word = WALK_BASE + some_place(head, regions);
        break;
    case 5:
        word = WALK_SYMBOL(draw(WALK_SYMBOLS));
        break;
    case 6: /* one of two numbers in a word */
        word ^= (uint64_t)draw(UINT32_MAX) << 32 * draw(2);
        break;
    default:
        word ^= UINT64_C(1) << draw(64);
    }
    memcpy(at, &word, sizeof word);
}

static struct walk_step some_step(const struct walk_image *head, const uint8_t *regions)
{
    return (struct walk_step){
        .what = (uint8_t)draw(STEP_KINDS),
        .value = (uint8_t)draw(256),
        .copy = (uint16_t)draw(draw(2) != 0 ? 32 : 1024),
        .at = some_place(head, regions),
    };
}

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
    struct walk_image head;
    drawn = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    if (size < sizeof head || draw(8) == 0)
        return LLVMFuzzerMutate(data, size, most);
    memcpy(&head, data, sizeof head);
    uint8_t *regions = data + sizeof head, *steps = regions + head.regions * sizeof(struct walk_region),
            *bytes = steps + head.steps * sizeof(struct walk_step);
    if (head.regions > WALK_REGIONS || head.steps > WALK_STEPS || bytes + 8 > data + size)
        return LLVMFuzzerMutate(data, size, most);
    size_t words = (size_t)(data + size - bytes) / 8;
    switch (draw(8)) {
    case 0: /* another step */
        if (head.steps < WALK_STEPS && size + sizeof(struct walk_step) <= most) {
            struct walk_step step = some_step(&head, regions);
            memmove(bytes + sizeof step, bytes, (size_t)(data + size - bytes));
            memcpy(bytes, &step, sizeof step);
            head.steps++;
            size += sizeof step;
        }
        break;
    case 1: /* an other step in the place of one */
        if (head.steps > 0) {
            struct walk_step step = some_step(&head, regions);
            memcpy(steps + draw(head.steps) * sizeof step, &step, sizeof step);
        }
        break;
    case 2:
        head.reads = (uint8_t)draw(READS_MOST);
        head.gil = (uint8_t)draw(3);
        head.filled ^= draw(2);
        break;
    default:
        for (uint32_t n = 1 + draw(3); n > 0; n--)
            change_word(&head, regions, bytes, words);
    }
    memcpy(data, &head, sizeof head);
    return size;
}

/* ---- one input ----------------------------------------------------------------------------------------- */

#define MUST(what)                                                                                           \
    do {                                                                                                     \
        if (!(what)) {                                                                                       \
            fprintf(stderr, "does not hold: %s\n", #what);                                                   \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

static void check_prediction(const struct reader_prediction *p)
{
    MUST(p->chunks >= 0 && p->chunks <= READER_CHUNKS);
    MUST(p->frames >= 0 && p->frames <= READER_OFF_CHUNK);
    MUST(p->cframes >= 0 && p->cframes <= READER_CFRAMES);
}

static uint32_t lines; /* so that they are computed */

static void check_stack(const struct stack *stack)
{
    MUST(stack->count > 0 && stack->count <= STACK_FRAMES);
    MUST((stack->flags & ~(uint32_t)(STACK_TORN | STACK_TRUNCATED)) == 0);
    for (uint32_t i = 0; i < stack->count; i++) {
        const struct code *code = stack->frame[i].code;
        MUST(code != NULL && code->address != 0);
        MUST(stack->frame[i].instruction < code->instructions);
        MUST(strlen(code->file) <= CODE_NAME_MAX && strlen(code->name) <= CODE_NAME_MAX);
        lines += code_line(code, stack->frame[i].instruction) + code_line(code, UINT32_MAX);
    }
}

static void read_thread(struct copy *copy, const struct reader_thread *thread, unsigned reads)
{
    static struct stack stack;
    struct reader_prediction prediction;
    struct reader_facts facts;
    memset(&prediction, 0, sizeof prediction);
    for (unsigned i = 0; i < reads; i++) {
        uint32_t before = image.copies;
        if (reader_read(copy, thread, &prediction, &stack, &facts))
            check_stack(&stack);
        MUST(image.copies - before <= COPIES_A_READ);
        check_prediction(&prediction);
        if (i % 3 == 2)
            codes_sweep();
        if (copy->bytes == NULL)
            copy_open(copy); /* as the sampler's next tick does */
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
#if PY_VERSION_HEX >= 0x030c0000
    static struct _gil_runtime_state gil;
    main_interpreter.ceval.gil = &gil;
#endif
    set_gil(1, 0);
    PyCode_Type.tp_dealloc = free_nothing;
    struct copy copy;
    MUST(reader_find_gil() && codes_open() == 0 && codes_watch() == 0 && copy_open(&copy) == 0);
    image.real = true;
    reader_find_native_id(&copy);
    image.real = false;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct reader_thread threads[LISTED_MOST];
    if (!load(data, size))
        return 0;
    struct copy copy;
    MUST(copy_open(&copy) == 0);
    codes_after_fork();
    const struct reader_thread thread = {
        .tstate = WALK_BASE + image.head.tstate,
        .tstate_id = image.head.tstate_id,
        .tstate_native_id = image.head.tstate_native_id,
        .tid = 1,
        .interpreter = WALK_BASE + image.head.interpreter,
    };
    set_gil(image.head.gil % 3, thread.tstate);
    read_thread(&copy, &thread, 1 + image.head.reads % READS_MOST);
    int listed = reader_list_threads(&copy, threads, LISTED_MOST);
    MUST(listed >= 0 && listed <= LISTED_MOST);
    for (int i = 0; i < listed; i++)
        read_thread(&copy, &threads[i], 2);
    return 0;
}
