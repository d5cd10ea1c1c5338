// A producer and a reader at full speed, with losses and dropped strips; run under a sanitizer by
// test_native_threads.py. Each line is filled with bytes made of its number, so any torn or misplaced line shows. Exit
// status 0: all as expected.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <thread>
#include <vector>

#include "prn_fast/linescan.hpp"

// The grab path allocates nothing: between these, an allocation ends the program.
static thread_local bool grabbing = false;

void *operator new(size_t size) {
    if (grabbing) {
        std::fputs("failed: the grab path allocates nothing\n", stderr);
        std::_Exit(1);
    }
    if (void *memory = std::malloc(size)) {
        return memory;
    }
    throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void *memory) noexcept {
    std::free(memory);
}
[[gnu::noinline]] void operator delete(void *memory, size_t) noexcept {
    std::free(memory);
}

namespace {

constexpr uint32_t WIDTH = 64, TILE = 16, OVERLAP = 5;

uint8_t byte_of(uint64_t line) {
    return uint8_t((line * 2654435761u) >> 13);
}

void require(bool condition, const char *what) {
    if (!condition) {
        std::fprintf(stderr, "failed: %s\n", what);
        std::exit(1);
    }
}

void check_strip(const prn::Strip &strip) {
    uint8_t expected = 0;
    for (uint32_t row = 0; row < TILE; ++row) {
        const uint64_t line = strip->first_line + row;
        // A missing line repeats the one before it, which may lie before the strip.
        expected = strip->missing[row] ? (row == 0 ? strip->pixels[0] : expected) : byte_of(line);
        for (uint32_t x = 0; x < WIDTH; ++x) {
            require(strip->pixels[row * WIDTH + x] == expected, "pixels are those of their line");
        }
    }
}

// `readers` threads take strips; the slow ones keep some and are overtaken, so strips are dropped.
void run(uint32_t depth, int readers, unsigned seed, uint64_t end) {
    prn::LineRing ring(prn::LineRingOptions{WIDTH, PRN_MONO8, TILE, OVERLAP, depth});
    std::atomic<uint64_t> inspected{0};
    std::vector<std::thread> threads;
    for (int number = 0; number < readers; ++number) {
        threads.emplace_back([&ring, &inspected, number, readers] {
            uint64_t last = 0;
            for (uint64_t count = 0;; ++count) {
                std::optional<prn::Strip> strip = ring.pop(std::chrono::milliseconds(1));
                if (!strip) {
                    if (ring.info().finished) {
                        return;
                    }
                    continue;
                }
                if (readers == 1) {
                    require(count == 0 || (*strip)->first_line > last, "strips come in the order of their lines");
                    last = (*strip)->first_line;
                }
                check_strip(*strip);
                if (count % 7 == 3) {
                    std::this_thread::sleep_for(std::chrono::microseconds(300));
                    check_strip(*strip);
                }
                if (count % 11 == 5) {
                    strip->drop(PRN_DROPPED_OVERLOAD);
                } else if (count % 13 != 6) {
                    strip->inspected();
                    ++inspected;
                }
            }
        });
    }

    std::mt19937 random(seed);
    std::vector<uint8_t> rows(40 * (WIDTH + 9));
    for (uint64_t line = 0; line < end;) {
        const uint64_t skipped = random() % 8 == 0 ? random() % 60 : 0, count = 1 + random() % 40;
        line += skipped;
        for (uint64_t row = 0; row < count; ++row) {
            std::fill_n(rows.begin() + row * (WIDTH + 9), WIDTH, byte_of(line + row));
        }
        grabbing = true;
        ring.push(rows.data(), count, WIDTH + 9, line);
        ring.push_missing(count % 3, PRN_MISSING_FAILED);
        grabbing = false;
        line += count + count % 3;
        const prn_ledger now = ring.ledger();
        require(now.inspected <= now.lines, "no more lines are settled than came");
    }
    grabbing = true;
    ring.finish();
    grabbing = false;
    for (std::thread &thread : threads) {
        thread.join();
    }

    const prn_ledger ledger = ring.ledger();
    uint64_t settled = ledger.inspected;
    for (const uint64_t lines : ledger.missing) settled += lines;
    for (const uint64_t lines : ledger.dropped) settled += lines;
    require(settled == ledger.lines, "the ledger balances");
    require(inspected > 0 && ledger.inspected > 0, "strips were inspected");
    require(ledger.dropped[PRN_DROPPED_ABANDONED] > 0, "strips without a verdict are counted");
}

// A strip outlives the ring that lent it.
void outlive() {
    auto ring = std::make_unique<prn::LineRing>(prn::LineRingOptions{WIDTH, PRN_MONO8, TILE, 0, 1});
    const std::vector<uint8_t> rows(WIDTH * TILE, byte_of(0));
    ring->push(rows.data(), TILE);
    std::optional<prn::Strip> strip = ring->pop();
    ring.reset();
    require(strip && (*strip)->pixels[WIDTH * TILE - 1] == byte_of(0), "the memory stays while it is lent");
    strip->inspected();
}

}  // namespace

int main() {
    outlive();
    run(1, 1, 1, 400000);
    run(3, 1, 2, 400000);
    run(4, 3, 3, 400000);
    std::puts("balanced");
}
