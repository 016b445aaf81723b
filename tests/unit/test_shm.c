/* Promises of shm/: lanes, definitions, counters, the budget word, the rates file, segments and directories.
 */
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/budget.h"
#include "shm/clock.h"
#include "shm/counters.h"
#include "shm/definitions.h"
#include "shm/directory.h"
#include "shm/fault.h"
#include "shm/lane.h"
#include "shm/rates.h"
#include "shm/segment.h"
#include "tests/unit/suite.h"

/* ---- lane ---------------------------------------------------------------------------------------------- */

enum { LANE_BYTES = 4096 };

struct lane_memory {
    struct lane_tail tail;
    struct lane_head head;
    _Alignas(8) uint8_t data[LANE_BYTES];
};

static struct lane lane_over(struct lane_memory *memory)
{
    memset(memory, 0, sizeof *memory);
    return (struct lane){
        .tail = &memory->tail, .head = &memory->head, .data = memory->data, .size = LANE_BYTES};
}

struct numbered {
    struct record_header header;
    uint64_t number;
    uint64_t copies[14]; /* all equal to number: a torn record shows */
};

static struct numbered numbered(uint64_t number, uint32_t size)
{
    struct numbered record = {.header = {.size = size, .kind = RECORD_SAMPLE}, .number = number};
    for (int i = 0; i < 14; i++)
        record.copies[i] = number;
    return record;
}

START_TEST(a_record_that_was_put_is_there_whole)
{
    static struct lane_memory memory;
    struct lane lane = lane_over(&memory);
    struct numbered record = numbered(7, sizeof record);
    ck_assert(lane_put(&lane, &record));
    ck_assert_uint_eq(atomic_load(&memory.tail.tail), sizeof record);
    ck_assert_mem_eq(memory.data, &record, sizeof record);
}
END_TEST

START_TEST(a_full_lane_discards_the_newest_and_counts_it)
{
    static struct lane_memory memory;
    struct lane lane = lane_over(&memory);
    struct numbered record = numbered(1, 128);
    for (int i = 0; i < LANE_BYTES / 128; i++)
        ck_assert(lane_put(&lane, &record));
    ck_assert(!lane_put(&lane, &record));
    ck_assert(!lane_put(&lane, &record));
    ck_assert_uint_eq(atomic_load(&memory.tail.lost_records), 2);
    ck_assert_uint_eq(atomic_load(&memory.tail.lost_bytes), 256);
    ck_assert_uint_eq(atomic_load(&memory.tail.tail), LANE_BYTES);
    atomic_store(&memory.head.head, 128);
    ck_assert_msg(lane_put(&lane, &record), "room that the consumer gave back is used");
}
END_TEST

START_TEST(a_record_never_wraps_but_padding_fills_the_rest)
{
    static struct lane_memory memory;
    struct lane lane = lane_over(&memory);
    struct numbered record = numbered(1, 120);
    for (int i = 0; i < 34; i++)
        ck_assert(lane_put(&lane, &record)); /* 4080 of 4096 bytes */
    atomic_store(&memory.head.head, 4080);
    ck_assert(lane_put(&lane, &record));
    const struct record_header *padding = (const struct record_header *)(const void *)(memory.data + 4080);
    ck_assert_uint_eq(padding->kind, RECORD_PADDING);
    ck_assert_uint_eq(padding->size, 16);
    ck_assert_uint_eq(atomic_load(&memory.tail.tail), 4096 + 120);
    ck_assert_mem_eq(memory.data, &record, 120);
}
END_TEST

START_TEST(a_head_beyond_the_tail_is_not_believed)
{
    static struct lane_memory memory;
    struct lane lane = lane_over(&memory);
    struct numbered record = numbered(1, 128);
    for (int i = 0; i < LANE_BYTES / 128; i++)
        ck_assert(lane_put(&lane, &record));
    const uint64_t beyond[] = {UINT64_MAX - 5, LANE_BYTES + 64};
    for (int i = 0; i < 100; i++) {
        atomic_store(&memory.head.head, beyond[i % 2]);
        ck_assert(!lane_put(&lane, &record));
    }
    ck_assert_uint_eq(atomic_load(&memory.tail.lost_records), 100);
}
END_TEST

struct traffic {
    struct lane lane;
    struct lane_memory *memory;
    uint64_t puts, read, wrong;
    _Atomic bool done;
};

/* The aggregator's side, as its ordering contract says. `acquire` false is the broken variant. */
static void consume(struct traffic *traffic, bool wait_for_commit)
{
    uint64_t position = 0, expected = 0;
    for (;;) {
        bool last = atomic_load(&traffic->done);
        uint64_t tail = atomic_load_explicit(&traffic->memory->tail.tail, memory_order_acquire);
        if (!wait_for_commit)
            tail = position + sizeof(struct numbered); /* broken: reads what was not committed */
        while (position < tail) {
            struct numbered record;
            memcpy(&record, traffic->memory->data + (position & (LANE_BYTES - 1)), sizeof record.header);
            if (record.header.size == 0 || record.header.size > LANE_BYTES) {
                traffic->wrong++;
                break;
            }
            if (record.header.kind != RECORD_PADDING) {
                memcpy(&record, traffic->memory->data + (position & (LANE_BYTES - 1)), sizeof record);
                bool whole = record.number >= expected;
                for (int i = 0; i < 14; i++)
                    whole = whole && record.copies[i] == record.number;
                traffic->wrong += !whole;
                traffic->read++;
                expected = record.number + 1;
            }
            position += record.header.size;
        }
        atomic_store_explicit(&traffic->memory->head.head, position, memory_order_release);
        if (last && (position >= atomic_load(&traffic->memory->tail.tail) || traffic->wrong != 0))
            return;
        if (traffic->wrong > 100)
            return;
    }
}

static void *produce(void *context)
{
    struct traffic *traffic = context;
    for (uint64_t i = 0; i < traffic->puts; i++) {
        struct numbered record = numbered(i, sizeof record);
        while (!lane_put(&traffic->lane, &record))
            if (atomic_load(&traffic->done))
                return NULL;
    }
    atomic_store(&traffic->done, true);
    return NULL;
}

static void run_traffic(struct traffic *traffic, bool wait_for_commit)
{
    static struct lane_memory memory;
    pthread_t producer;
    memset(traffic, 0, sizeof *traffic);
    traffic->lane = lane_over(&memory);
    traffic->memory = &memory;
    traffic->puts = 200000;
    pthread_create(&producer, NULL, produce, traffic);
    consume(traffic, wait_for_commit);
    atomic_store(&traffic->done, true);
    pthread_join(producer, NULL);
}

START_TEST(a_concurrent_reader_sees_every_record_once_whole_and_in_order)
{
    static struct traffic traffic;
    run_traffic(&traffic, true);
    ck_assert_uint_eq(traffic.wrong, 0);
    ck_assert_uint_eq(traffic.read, traffic.puts);
}
END_TEST

#ifndef __SANITIZE_THREAD__
START_TEST(a_reader_that_does_not_wait_for_the_commit_is_caught)
{
    static struct traffic traffic;
    run_traffic(&traffic, false);
    ck_assert_uint_gt(traffic.wrong, 0);
}
END_TEST
#endif

/* ---- definitions --------------------------------------------------------------------------------------- */

START_TEST(of_all_whose_lanes_fill_one_rings_for_each_look)
{
    static struct lane_memory memory;
    struct lane lane = lane_over(&memory);
    struct numbered record = numbered(1, 128);
    struct budget_page page = {0};
    for (int i = 0; i < LANE_BYTES / 128 / 2; i++)
        ck_assert(lane_put(&lane, &record));
    ck_assert_msg(!lane_is_filling(&lane), "half full is not yet filling");
    ck_assert(lane_put(&lane, &record) && lane_is_filling(&lane));
    ck_assert_msg(!budget_take_ring(&page), "nobody listens");
    for (int look = 0; look < 2; look++) {
        budget_listen(&page);
        ck_assert(budget_take_ring(&page));
        ck_assert(!budget_take_ring(&page));
    }
    atomic_store(&memory.head.head, 128);
    ck_assert_msg(!lane_is_filling(&lane), "room that the consumer gave back counts");
}
END_TEST

START_TEST(a_definition_that_does_not_fit_writes_nothing)
{
    _Alignas(8) uint8_t data[64];
    _Atomic uint64_t used = 0;
    struct definitions area = {.used = &used, .data = data, .size = sizeof data};
    struct define_string head = {.header = {.kind = DEFINE_STRING}, .length = 9};
    ck_assert(definitions_put(&area, &head, sizeof head, "shop/a.py", 9));
    ck_assert_uint_eq(used, 32);
    ck_assert_uint_eq(head.header.size, 32);
    head.length = 17;
    ck_assert(!definitions_put(&area, &head, sizeof head, "seventeen letters", 17));
    ck_assert_uint_eq(used, 32);
    head.length = 16;
    ck_assert(definitions_put(&area, &head, sizeof head, "sixteen letters!", 16));
    ck_assert_uint_eq(used, 64);
}
END_TEST

/* ---- counters ------------------------------------------------------------------------------------------ */

START_TEST(every_latency_falls_into_a_bucket_that_contains_it)
{
    for (uint64_t ns = 1 << HISTOGRAM_FIRST; ns < UINT64_C(200) * NS_PER_SECOND; ns += ns / 37 + 1) {
        uint32_t bucket = histogram_bucket(ns);
        ck_assert_uint_lt(bucket, HISTOGRAM_BUCKETS);
        ck_assert_uint_le(histogram_lower_ns(bucket), ns);
        ck_assert_uint_lt(ns, histogram_lower_ns(bucket + 1));
        ck_assert_uint_le((histogram_lower_ns(bucket + 1) - histogram_lower_ns(bucket)) * 16, ns + 16);
    }
    ck_assert_uint_eq(histogram_bucket(0), 0);
    ck_assert_uint_eq(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
}
END_TEST

START_TEST(a_spent_pool_of_blocks_still_counts_by_octave)
{
    struct counters *counters = calloc(1, sizeof *counters);
    atomic_store(&counters->blocks_used, HISTOGRAM_BLOCKS);
    counters_add(counters, 3, 5000000, false, DENIALS);
    counters_add(counters, 3, 5000001, true, DENIED_CAP);
    const struct counter_row *row = &counters->row[3];
    uint32_t octave = row->octave[histogram_bucket(5000000) / HISTOGRAM_SUB];
    ck_assert_uint_eq(octave, OCTAVE_COARSE | 2);
    ck_assert_uint_eq(counters->coarse, 2);
    ck_assert_uint_eq(row->count, 2);
    ck_assert_uint_eq(row->errors, 1);
    ck_assert_uint_eq(row->profiled, 1);
    ck_assert_uint_eq(row->denied[DENIED_CAP], 1);
    ck_assert_uint_eq(row->latency_sum_ns, 10000001);
    ck_assert_uint_eq(row->latency_max_ns, 5000001);
    free(counters);
}
END_TEST

/* ---- budget -------------------------------------------------------------------------------------------- */

START_TEST(a_cycle_gives_exactly_its_cap_and_the_next_starts_anew)
{
    struct budget_page page = {0};
    for (int i = 0; i < 10; i++)
        ck_assert(budget_take(&page, 5, 10));
    ck_assert(!budget_take(&page, 5, 10));
    ck_assert(budget_take(&page, 6, 10));
    ck_assert_msg(!budget_take(&page, 5, 10),
                  "a late comer gets nothing of a cycle in which it did not begin");
    ck_assert_uint_eq(page.peak, 10);
    ck_assert_msg(budget_take(&page, 6, 0), "no cap");
    ck_assert_msg(budget_take(&page, 5, 0), "nor a cycle that is over, then");
    ck_assert_uint_eq(page.word, UINT64_C(6) << 32 | 3);
}
END_TEST

START_TEST(the_cycle_number_may_wrap)
{
    struct budget_page page = {0};
    atomic_store(&page.word, (uint64_t)UINT32_MAX << 32 | 3);
    ck_assert(!budget_take(&page, UINT32_MAX, 3));
    ck_assert(budget_take(&page, 0, 3));
    ck_assert_uint_eq(budget_cycle_of(page.word), 0);
}
END_TEST

START_TEST(a_word_from_the_future_is_set_back_and_the_rest_of_the_cycle_denied)
{
    struct budget_page page = {0};
    atomic_store(&page.word, (uint64_t)1000 << 32 | 3);
    ck_assert(!budget_audit(&page, budget_look(&page), 1000));
    ck_assert(!budget_take(&page, 10, 7));
    ck_assert(budget_audit(&page, budget_look(&page), 10));
    ck_assert_msg(!budget_take(&page, 10, 7), "nobody knows how many it has given");
    ck_assert(budget_take(&page, 11, 7));
}
END_TEST

START_TEST(an_auditor_that_was_held_up_leaves_a_word_that_moved_on)
{
    struct budget_page page = {0};
    atomic_store(&page.word, (uint64_t)1000 << 32 | 3);
    uint64_t word = budget_look(&page);
    atomic_store(&page.word, (uint64_t)12 << 32 | 7);
    ck_assert(!budget_audit(&page, word, 10));
    ck_assert_uint_eq(page.word, UINT64_C(12) << 32 | 7);
}
END_TEST

/* ---- rates --------------------------------------------------------------------------------------------- */

static _Atomic bool rates_stop;

static void *write_rates(void *context)
{
    struct rates_page *page = context;
    for (uint32_t i = 1; !atomic_load(&rates_stop); i++) {
        struct rates rates = {.interval_ns = i, .cycle_ns = i, .cap = i};
        for (int s = 0; s < STRATA; s++)
            rates.probability[s] = i;
        rates_write(page, &rates);
    }
    return NULL;
}

START_TEST(a_reader_of_rates_never_sees_a_mixture)
{
    static struct rates_page page;
    pthread_t writer;
    memset(&page, 0, sizeof page);
    atomic_store(&rates_stop, false);
    pthread_create(&writer, NULL, write_rates, &page);
    int read = 0;
    for (int i = 0; i < 200000; i++) {
        struct rates rates;
        struct rates_admission admission;
        if (rates_read(&page, &rates)) {
            read++;
            ck_assert_uint_eq(rates.interval_ns, rates.cap);
            ck_assert_uint_eq(rates.probability[0], rates.cap);
            ck_assert_uint_eq(rates.probability[STRATA - 1], rates.cap);
        }
        if (rates_read_admission(&page, STRATA - 1, &admission)) {
            ck_assert_uint_eq(admission.cycle_ns, admission.cap);
            ck_assert_uint_eq(admission.probability, admission.cap);
        }
    }
    atomic_store(&rates_stop, true);
    pthread_join(writer, NULL);
    ck_assert_int_gt(read, 0);
}
END_TEST

/* ---- segment and directory ------------------------------------------------------------------------------
 */

static char home[64];

static void make_home(void)
{
    strcpy(home, "/dev/shm/pom-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(home));
}

static void remove_home(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", home);
    ck_assert_int_eq(system(command), 0);
}

START_TEST(a_segment_is_whole_before_it_has_its_name)
{
    struct segment segment;
    ck_assert_int_eq(segment_create(&segment, home, "web-1", 0x030b0000, &segment_default_sizes), 0);
    ck_assert_int_eq(segment_check_header(segment.header, segment.bytes), 0);
    ck_assert_str_eq(segment.header->source, "web-1");
    ck_assert_int_eq(segment.header->pid, getpid());
    ck_assert_uint_eq(segment.header->start_time_ticks, segment_process_start(getpid()));
    struct stat st;
    char path[128], hex[33];
    for (int i = 0; i < 16; i++)
        snprintf(hex + 2 * i, 3, "%02x", segment.header->uuid[i]);
    snprintf(path, sizeof path, "%s/%s.ring", home, hex);
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq((uint64_t)st.st_size, segment.bytes);
    ck_assert_msg((uint64_t)st.st_blocks * 512 >= segment.bytes, "allocated, not sparse");
    ck_assert_uint_eq(st.st_mode & 0777, 0600);
    segment_unmap(&segment);
}
END_TEST

START_TEST(a_child_of_fork_has_no_mapping_of_its_parents_segment)
{
    struct segment segment;
    ck_assert_int_eq(segment_create(&segment, home, "s", 0, &segment_small_sizes), 0);
    pid_t child = fork();
    if (child == 0) {
        unsigned char resident;
        _exit(mincore(segment.base, SEGMENT_PAGE, &resident) == 0 ? 1
                                                                  : 0); /* ENOMEM: nothing is mapped there */
    }
    int status;
    waitpid(child, &status, 0);
    ck_assert_int_eq(status, 0);
    segment_unmap(&segment);
}
END_TEST

START_TEST(a_damaged_header_is_refused_with_a_reason)
{
    struct segment segment;
    struct segment_header header;
    ck_assert_int_eq(segment_create(&segment, home, "s", 0, &segment_small_sizes), 0);
    uint64_t bytes = segment.bytes;
#define BREAKS(change, words)                                                                                \
    do {                                                                                                     \
        header = *segment.header;                                                                            \
        change;                                                                                              \
        ck_assert_int_lt(segment_check_header(&header, bytes), 0);                                           \
        ck_assert_msg(strstr(fault_text(), words) != NULL, "%s", fault_text());                              \
    } while (0)
    BREAKS(header.magic++, "magic");
    BREAKS(header.abi_major++, "ABI");
    BREAKS(header.endian_tag = 0x04030201, "machine");
    BREAKS(header.file_bytes--, "bytes long");
    BREAKS(header.counters.offset = 0, "counters");
    BREAKS(header.lanes[0].bytes -= 4096, "power of two");
    BREAKS(header.lanes[1].offset = UINT64_MAX - 4095, "outside");
    BREAKS(header.definitions[0].bytes = bytes * 2, "outside");
    BREAKS(header.lanes[1].offset = header.lanes[0].offset, "overlap");
    BREAKS(memset(header.source, 'x', sizeof header.source), "unterminated");
    segment_unmap(&segment);
}
END_TEST

START_TEST(a_pools_folder_name_gives_back_uid_and_source)
{
    char path[DIRECTORY_PATH_MAX], source[DIRECTORY_SOURCE_MAX + 1];
    uid_t uid;
    const char *const sources[] = {"web-1", "a/b c%", "日本", "..", ""};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        ck_assert_int_eq(directory_pool(path, "/x", 1234, sources[i]), 0);
        ck_assert_ptr_null(strchr(path + 3, '/'));
        ck_assert_int_eq(directory_parse_pool(path + 3, &uid, source), 0);
        ck_assert_uint_eq(uid, 1234);
        ck_assert_str_eq(source, sources[i]);
    }
    ck_assert_int_lt(directory_parse_pool("web", &uid, source), 0);
    ck_assert_int_lt(directory_parse_pool("1-%zz", &uid, source), 0);
    ck_assert_int_lt(directory_parse_pool("1-a/b", &uid, source), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("shm");
    TCase *plain = tcase_create("plain");
    tcase_set_timeout(plain, 60);
    tcase_add_test(plain, a_record_that_was_put_is_there_whole);
    tcase_add_test(plain, a_full_lane_discards_the_newest_and_counts_it);
    tcase_add_test(plain, a_record_never_wraps_but_padding_fills_the_rest);
    tcase_add_test(plain, a_head_beyond_the_tail_is_not_believed);
    tcase_add_test(plain, a_concurrent_reader_sees_every_record_once_whole_and_in_order);
#ifndef __SANITIZE_THREAD__
    tcase_add_test(plain, a_reader_that_does_not_wait_for_the_commit_is_caught);
#endif
    tcase_add_test(plain, of_all_whose_lanes_fill_one_rings_for_each_look);
    tcase_add_test(plain, a_definition_that_does_not_fit_writes_nothing);
    tcase_add_test(plain, every_latency_falls_into_a_bucket_that_contains_it);
    tcase_add_test(plain, a_spent_pool_of_blocks_still_counts_by_octave);
    tcase_add_test(plain, a_cycle_gives_exactly_its_cap_and_the_next_starts_anew);
    tcase_add_test(plain, the_cycle_number_may_wrap);
    tcase_add_test(plain, a_word_from_the_future_is_set_back_and_the_rest_of_the_cycle_denied);
    tcase_add_test(plain, an_auditor_that_was_held_up_leaves_a_word_that_moved_on);
    tcase_add_test(plain, a_reader_of_rates_never_sees_a_mixture);
    tcase_add_test(plain, a_pools_folder_name_gives_back_uid_and_source);
    suite_add_tcase(suite, plain);
    TCase *files = tcase_create("files");
    tcase_add_checked_fixture(files, make_home, remove_home);
    tcase_add_test(files, a_segment_is_whole_before_it_has_its_name);
    tcase_add_test(files, a_child_of_fork_has_no_mapping_of_its_parents_segment);
    tcase_add_test(files, a_damaged_header_is_refused_with_a_reason);
    suite_add_tcase(suite, files);
    return suite_run(suite, CK_FORK);
}
