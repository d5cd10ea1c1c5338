// What a caller of linescan.h can do wrong: every function with wrong sizes, null pointers, numbers out of range, and
// two threads that end one strip; run under a sanitizer by test_native_threads.py. Exit status 0: all as expected.
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "prn_fast/linescan.h"

namespace {

constexpr uint32_t WIDTH = 32, TILE = 8, DEPTH = 2;

void require(bool condition, const char *what) {
    if (!condition) {
        std::fprintf(stderr, "failed: %s\n", what);
        std::exit(1);
    }
}

template <typename Struct>
Struct sized(uint32_t size = sizeof(Struct)) {
    Struct value = {};
    value.struct_size = size;
    return value;
}

struct Ring {
    explicit Ring(uint32_t depth = DEPTH, uint32_t overlap = 0) {
        auto options = sized<prn_ring_options>();
        options.pixel_format = PRN_MONO8;
        options.width = WIDTH;
        options.tile = TILE;
        options.overlap = overlap;
        options.depth = depth;
        require(prn_ring_create(&options, &ring) == PRN_OK, "a ring is made");
    }
    ~Ring() { prn_ring_release(ring); }
    Ring(const Ring &) = delete;
    Ring &operator=(const Ring &) = delete;

    void push(uint64_t strips) {
        const std::vector<uint8_t> rows(strips * TILE * WIDTH, 7);
        require(prn_ring_push(ring, rows.data(), strips * TILE, 0, PRN_FOLLOWS, 0) == PRN_OK, "lines are pushed");
    }
    prn_strip pop() {
        auto strip = sized<prn_strip>();
        require(prn_ring_pop(ring, 0, &strip) == PRN_OK, "a strip is taken");
        return strip;
    }
    prn_ledger ledger() {
        auto ledger = sized<prn_ledger>();
        require(prn_ring_read_ledger(ring, &ledger) == PRN_OK, "the ledger is read");
        return ledger;
    }
    void require_whole(const char *what) {
        const prn_ledger now = ledger();
        uint64_t settled = now.inspected;
        for (const uint64_t lines : now.missing) settled += lines;
        for (const uint64_t lines : now.dropped) settled += lines;
        require(settled == now.lines, what);
    }

    prn_ring *ring = nullptr;
};

// Sizes that a caller cannot mean: none, its own field only, a part, one byte too few, memory that nobody set.
template <typename Struct>
std::vector<uint32_t> wrong_sizes() {
    return {0, 4, 8, uint32_t(sizeof(Struct)) / 2, uint32_t(sizeof(Struct)) - 1, 1u << 20, UINT32_MAX};
}

void wrong_sizes_are_refused_and_take_nothing() {
    Ring one;
    one.push(DEPTH);
    for (const uint32_t size : wrong_sizes<prn_strip>()) {
        auto strip = sized<prn_strip>(size);
        require(prn_ring_pop(one.ring, 0, &strip) == PRN_BAD_ARGUMENT, "pop refuses the size");
        require(strip.pixels == nullptr, "nothing is written");
    }
    const prn_strip first = one.pop();
    for (const uint32_t size : wrong_sizes<prn_strip>()) {
        prn_strip strip = first;
        strip.struct_size = size;
        require(prn_ring_settle(one.ring, &strip, PRN_INSPECTED) == PRN_BAD_ARGUMENT, "settle refuses the size");
        require(prn_ring_give_back(one.ring, &strip) == PRN_BAD_ARGUMENT, "give_back refuses the size");
    }
    for (const uint32_t size : wrong_sizes<prn_ring_info>()) {
        auto info = sized<prn_ring_info>(size);
        require(prn_ring_describe(one.ring, &info) == PRN_BAD_ARGUMENT && info.width == 0, "describe refuses the size");
    }
    for (const uint32_t size : wrong_sizes<prn_ledger>()) {
        auto ledger = sized<prn_ledger>(size);
        require(prn_ring_read_ledger(one.ring, &ledger) == PRN_BAD_ARGUMENT && ledger.lines == 0,
                "read_ledger refuses the size");
    }
    for (const uint32_t size : wrong_sizes<prn_ring_options>()) {
        prn_ring_options options = {size, PRN_MONO8, WIDTH, TILE, 0, DEPTH};
        prn_ring *ring = one.ring;
        require(prn_ring_create(&options, &ring) == PRN_BAD_ARGUMENT && ring == nullptr, "create refuses the size");
    }
    require(prn_ring_settle(one.ring, &first, PRN_INSPECTED) == PRN_OK, "the strip was not touched");
    require(prn_ring_give_back(one.ring, &first) == PRN_OK, "nor given back");
    const prn_strip second = one.pop();
    require(second.index == 1, "no strip was lost");
    require(prn_ring_give_back(one.ring, &second) == PRN_OK, "and no place");
    one.require_whole("every line has its fate");
}

// A newer caller knows more than this library: what it knows beyond stays as it was.
void a_newer_caller_is_served() {
    Ring one;
    struct {
        prn_ring_info known = {};
        uint64_t beyond = 12345;
    } newer;
    newer.known.struct_size = sizeof newer;
    require(prn_ring_describe(one.ring, &newer.known) == PRN_OK, "describe");
    require(newer.known.width == WIDTH && newer.known.struct_size == sizeof newer && newer.beyond == 12345,
            "only the known part is written");
}

void null_pointers_are_refused() {
    Ring one;
    auto strip = sized<prn_strip>();
    auto info = sized<prn_ring_info>();
    auto ledger = sized<prn_ledger>();
    auto options = sized<prn_ring_options>();
    prn_ring *ring = nullptr;
    const uint8_t rows[WIDTH] = {};
    const prn_status statuses[] = {
        prn_ring_create(nullptr, &ring),
        prn_ring_create(&options, nullptr),
        prn_ring_describe(nullptr, &info),
        prn_ring_describe(one.ring, nullptr),
        prn_ring_push(nullptr, rows, 1, 0, PRN_FOLLOWS, 0),
        prn_ring_push(one.ring, nullptr, 1, 0, PRN_FOLLOWS, 0),
        prn_ring_push_missing(nullptr, 1, PRN_MISSING_GAP, 0),
        prn_ring_finish(nullptr),
        prn_ring_pop(nullptr, 0, &strip),
        prn_ring_pop(one.ring, 0, nullptr),
        prn_ring_settle(nullptr, &strip, PRN_INSPECTED),
        prn_ring_settle(one.ring, nullptr, PRN_INSPECTED),
        prn_ring_give_back(nullptr, &strip),
        prn_ring_give_back(one.ring, nullptr),
        prn_ring_read_ledger(nullptr, &ledger),
        prn_ring_read_ledger(one.ring, nullptr),
        prn_cut_tiles(nullptr, WIDTH, WIDTH, 1, TILE, 0, reinterpret_cast<uint8_t *>(&ledger)),
        prn_cut_tiles(rows, WIDTH, WIDTH, 1, TILE, 0, nullptr),
    };
    for (const prn_status status : statuses) {
        require(status == PRN_BAD_ARGUMENT, "a null pointer is refused");
    }
    prn_ring_retain(nullptr);
    prn_ring_release(nullptr);
    require(one.ledger().lines == 0, "nothing was taken");
}

void numbers_out_of_range_are_refused() {
    struct {
        uint32_t format, width, tile, overlap, depth;
    } const impossible[] = {
        {0, WIDTH, TILE, 0, DEPTH},
        {UINT32_MAX, WIDTH, TILE, 0, DEPTH},
        {PRN_MONO8, 0, TILE, 0, DEPTH},
        {PRN_MONO8, UINT32_MAX, TILE, 0, DEPTH},
        {PRN_MONO8, WIDTH, 0, 0, DEPTH},
        {PRN_MONO8, WIDTH, WIDTH + 1, 0, DEPTH},
        {PRN_MONO8, WIDTH, UINT32_MAX, 0, DEPTH},
        {PRN_MONO8, WIDTH, TILE, TILE / 2 + 1, DEPTH},
        {PRN_MONO8, WIDTH, TILE, UINT32_MAX, DEPTH},
        {PRN_MONO8, WIDTH, TILE, 0, 0},
        {PRN_MONO8, WIDTH, TILE, 0, UINT32_MAX},
        {PRN_MONO12P, WIDTH + 1, TILE, 0, DEPTH},
    };
    for (const auto &one : impossible) {
        prn_ring_options options = {sizeof(prn_ring_options), one.format, one.width, one.tile, one.overlap, one.depth};
        prn_ring *ring = nullptr;
        require(prn_ring_create(&options, &ring) == PRN_BAD_OPTIONS && ring == nullptr, "the options are refused");
    }

    Ring one;
    const std::vector<uint8_t> rows(3 * WIDTH);
    const auto push = [&](uint64_t lines, size_t pitch, uint64_t first_line) {
        return prn_ring_push(one.ring, rows.data(), lines, pitch, first_line, 0);
    };
    require(push(3, WIDTH - 1, PRN_FOLLOWS) == PRN_BAD_ARGUMENT, "a pitch below a row");
    require(push(3, SIZE_MAX, PRN_FOLLOWS) == PRN_BAD_ARGUMENT, "a pitch beyond the address space");
    require(push(3, SIZE_MAX / 2, PRN_FOLLOWS) == PRN_BAD_ARGUMENT, "rows that wrap around the address space");
    require(push(UINT64_MAX, 0, PRN_FOLLOWS) == PRN_BAD_ARGUMENT, "more lines than can be");
    require(push(3, 0, UINT64_MAX - 1) == PRN_BAD_ARGUMENT, "a line number that cannot be");
    for (const int32_t reason : {-1, int32_t(PRN_MISSING_REASONS), INT32_MIN, INT32_MAX}) {
        require(prn_ring_push_missing(one.ring, 1, reason, 0) == PRN_BAD_ARGUMENT, "an unknown reason");
    }
    require(prn_ring_push_missing(one.ring, UINT64_MAX, PRN_MISSING_GAP, 0) == PRN_BAD_ARGUMENT, "too many missing");
    require(one.ledger().lines == 0, "nothing was taken");

    one.push(1);
    const prn_strip strip = one.pop();
    for (const int32_t verdict : {-1, int32_t(PRN_DROPPED_REASONS), PRN_INSPECTED + 1, INT32_MIN, INT32_MAX}) {
        require(prn_ring_settle(one.ring, &strip, verdict) == PRN_BAD_ARGUMENT, "an unknown verdict");
    }
    require(prn_ring_give_back(one.ring, &strip) == PRN_OK, "the strip is still held");

    for (const prn_status status : {prn_status(-9), prn_status(3), INT32_MIN, INT32_MAX}) {
        require(std::string(prn_status_text(status)) == "unknown status", "a status that nobody gives");
    }
}

void strips_of_nobody_are_refused() {
    Ring one, other;
    one.push(1);
    other.push(1);
    const prn_strip lent = one.pop(), foreign = other.pop();
    prn_strip zeros = sized<prn_strip>(), beyond = lent, moved = lent, high = lent;
    high.index |= uint64_t(1) << 63;
    beyond.slot = UINT32_MAX;
    moved.slot += 1;
    for (const prn_strip &strip : {foreign, zeros, beyond, moved, high}) {
        require(prn_ring_settle(one.ring, &strip, PRN_INSPECTED) == PRN_BAD_ARGUMENT, "settle of a strip of nobody");
        require(prn_ring_give_back(one.ring, &strip) == PRN_BAD_ARGUMENT, "give_back of a strip of nobody");
    }
    require(one.ledger().inspected == 0, "no strip was settled");
    prn_strip later = lent;
    later.index += 1;
    require(prn_ring_settle(one.ring, &later, PRN_INSPECTED) == PRN_SETTLED, "a strip that is not in this place");

    require(prn_ring_settle(one.ring, &lent, PRN_INSPECTED) == PRN_OK, "settle");
    require(prn_ring_settle(one.ring, &lent, PRN_INSPECTED) == PRN_SETTLED, "settled twice");
    require(prn_ring_give_back(one.ring, &lent) == PRN_OK, "given back");
    require(prn_ring_give_back(one.ring, &lent) == PRN_SETTLED, "given back twice");
    require(prn_ring_settle(one.ring, &lent, PRN_INSPECTED) == PRN_SETTLED, "settled after it was given back");
    require(prn_ring_give_back(other.ring, &foreign) == PRN_OK, "the other ring's strip");
}

// Threads end one strip at once, all of them with the same part of the work, while the producer fills places anew.
template <typename End>
void of_many_threads_one_ends_a_strip(const End &end) {
    constexpr int THREADS = 2, ROUNDS = 3000;
    Ring one(1);
    std::atomic<int> round{0}, done{0}, ended{0};
    prn_strip strip = {};
    std::vector<std::thread> threads;
    for (int number = 0; number < THREADS; ++number) {
        threads.emplace_back([&] {
            for (int now = 1; now <= ROUNDS; ++now) {
                // Awake, so that all begin at once; asleep only where there are more threads than processors.
                for (int looks = 0; round.load(std::memory_order_acquire) < now; ++looks) {
                    if (looks % 5000 == 4999) {
                        std::this_thread::yield();
                    }
                }
                ended += end(one.ring, strip) ? 1 : 0;
                ++done;
            }
        });
    }
    for (int now = 1; now <= ROUNDS; ++now) {
        one.push(1);
        strip = one.pop();
        round.store(now, std::memory_order_release);
        one.push(2);
        while (done < now * THREADS) {
            std::this_thread::yield();
        }
        require(ended == now, "one of the threads ended the strip");
        auto next = sized<prn_strip>();
        require(prn_ring_pop(one.ring, 0, &next) == PRN_OK, "a place is free, and no more than one was held");
        require(prn_ring_give_back(one.ring, &next) == PRN_OK, "the next strip is whole");
        while (prn_ring_pop(one.ring, 0, &next) == PRN_OK) {
            require(prn_ring_give_back(one.ring, &next) == PRN_OK, "and all after it");
        }
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    require(prn_ring_finish(one.ring) == PRN_OK, "finish");
    one.require_whole("every line is counted once");
}

void threads_that_end_one_strip() {
    of_many_threads_one_ends_a_strip(
        [](prn_ring *ring, const prn_strip &strip) { return prn_ring_give_back(ring, &strip) == PRN_OK; });
    of_many_threads_one_ends_a_strip([](prn_ring *ring, const prn_strip &strip) {
        prn_ring_settle(ring, &strip, PRN_INSPECTED);
        return prn_ring_give_back(ring, &strip) == PRN_OK;
    });
}

// With one place, readers that look at the same moment do not tell each other that it is taken.
void waiting_readers_do_not_hold_places() {
    Ring one(1);
    std::vector<std::thread> threads;
    for (int number = 0; number < 4; ++number) {
        threads.emplace_back([&] {
            for (int count = 0; count < 20000; ++count) {
                auto strip = sized<prn_strip>();
                require(prn_ring_pop(one.ring, 0, &strip) == PRN_EMPTY, "there is no strip, and none is held");
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
}

uint64_t times_slept(long thread) {
    const std::string path = "/proc/self/task/" + std::to_string(thread) + "/status";
    uint64_t count = 0;
    if (std::FILE *const file = std::fopen(path.c_str(), "r")) {
        char line[256];
        while (std::fgets(line, sizeof line, file) != nullptr) {
            std::sscanf(line, "voluntary_ctxt_switches: %" SCNu64, &count);
        }
        std::fclose(file);
    }
    return count;
}

// However long the timeout, a waiting reader sleeps, gets the strip that comes, and sees the end.
void the_longest_timeouts_sleep() {
    for (const uint64_t timeout : {UINT64_MAX, UINT64_MAX / 2, UINT64_MAX / 2 + 1, uint64_t(1) << 62}) {
        Ring one;
        std::atomic<long> reader{0};
        std::thread thread([&] {
            reader = syscall(SYS_gettid);
            auto strip = sized<prn_strip>();
            require(prn_ring_pop(one.ring, timeout, &strip) == PRN_OK, "the strip comes");
            require(prn_ring_give_back(one.ring, &strip) == PRN_OK, "and goes");
            require(prn_ring_pop(one.ring, timeout, &strip) == PRN_END, "the end comes");
        });
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
        while (reader == 0 || times_slept(reader) < 10) {
            require(std::chrono::steady_clock::now() < deadline, "a waiting reader sleeps");
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        one.push(1);
        require(prn_ring_finish(one.ring) == PRN_OK, "finish");
        thread.join();
    }
}

void after_the_end() {
    Ring one;
    one.push(1);
    require(prn_ring_finish(one.ring) == PRN_OK, "finish");
    const uint8_t rows[WIDTH] = {};
    require(prn_ring_finish(one.ring) == PRN_FINISHED, "finish twice");
    require(prn_ring_push(one.ring, rows, 1, 0, PRN_FOLLOWS, 0) == PRN_FINISHED, "push after the end");
    require(prn_ring_push_missing(one.ring, 1, PRN_MISSING_GAP, 0) == PRN_FINISHED, "push_missing after the end");
    const prn_strip strip = one.pop();
    require(prn_ring_give_back(one.ring, &strip) == PRN_OK, "what waited is there");
    auto next = sized<prn_strip>();
    require(prn_ring_pop(one.ring, UINT64_MAX, &next) == PRN_END, "then the end");
    one.require_whole("every line has its fate");
}

void tiles_that_cannot_be() {
    require(prn_tile_count(0, 0, 0) == 0 && prn_tile_count(7, 8, 0) == 0 && prn_tile_count(8, 8, 8) == 0, "no tiles");
    require(prn_tile_count(UINT64_MAX, 1, 0) == UINT64_MAX, "as many tiles as there are numbers");
    require(prn_tile_start(7, 8, 0, 0) == 0 && prn_tile_start(8, 8, 8, 1) == 0, "no tiles, no start");
    require(prn_tile_start(20, 8, 2, 1) == 6 && prn_tile_start(20, 8, 2, 2) == 12, "starts");
    require(prn_tile_start(20, 8, 2, 3) == 12 && prn_tile_start(20, 8, 2, UINT64_MAX) == 12, "beyond the last");

    std::vector<uint8_t> strip(TILE * WIDTH), tiles(TILE * WIDTH);
    const auto cut = [&](size_t pitch, uint32_t width, uint32_t channels, uint32_t tile, uint32_t overlap) {
        return prn_cut_tiles(strip.data(), pitch, width, channels, tile, overlap, tiles.data());
    };
    require(cut(WIDTH, WIDTH, 1, TILE, 0) == PRN_OK, "tiles");
    for (const prn_status status : {
             cut(WIDTH - 1, WIDTH, 1, TILE, 0),
             cut(SIZE_MAX, WIDTH, 1, TILE, 0),
             cut(WIDTH, WIDTH, 0, TILE, 0),
             cut(SIZE_MAX / TILE, WIDTH, UINT32_MAX, TILE, 0),
             cut(WIDTH, WIDTH, 1, 0, 0),
             cut(WIDTH, WIDTH, 1, WIDTH + 1, 0),
             cut(WIDTH, WIDTH, 1, TILE, TILE),
             cut(WIDTH, 0, 1, TILE, 0),
         }) {
        require(status == PRN_BAD_ARGUMENT, "tiles that cannot be are refused");
    }
}

}  // namespace

int main() {
    wrong_sizes_are_refused_and_take_nothing();
    a_newer_caller_is_served();
    null_pointers_are_refused();
    numbers_out_of_range_are_refused();
    strips_of_nobody_are_refused();
    threads_that_end_one_strip();
    waiting_readers_do_not_hold_places();
    the_longest_timeouts_sleep();
    after_the_end();
    tiles_that_cannot_be();
    std::puts("refused");
}
