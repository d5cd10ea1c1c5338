// Single-producer line ring with bounded memory: lines in, overlapping strips out, every line counted once.
//
// The ring is a fixed set of slots, each as large as a strip. The producer writes a line into every strip that holds it
// (two within the overlap), so a strip is contiguous and can be lent without a copy. A slot's state and strip index
// share one atomic word; whoever exchanges the word owns the slot:
//
//     FREE --producer--> WRITING --producer--> WAITING --reader--> HELD --reader--> SETTLED --reader--> FREE
//                           ^------producer-------'   (queue full: the oldest waiting strip is dropped)
//
// Every step is an exchange that names the strip, so of two threads that settle or give back one strip, one succeeds,
// and neither touches the strip that comes to lie in the slot afterwards.
//
// The producer has at most three slots in hand: the strip being filled, the next one within the overlap, and the last
// complete one, whose lines the last strip of the web needs. The reader holds at most `depth`. With depth + 3 slots the
// producer therefore always finds a free or a waiting one, and never waits for the reader.
//
// What hosts never include lives in prn::core: were this prn::LineRing, as the class of linescan.hpp is, the linker
// would take the functions of one for those of the other.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "pixel_format.hpp"
#include "prn_fast/linescan.h"

namespace prn::core {

class LineRing {
  public:
    static prn_status check(const prn_ring_options &options);
    explicit LineRing(const prn_ring_options &options);

    prn_status push(const uint8_t *rows, uint64_t lines, size_t pitch, uint64_t first_line, uint64_t timestamp_ns);
    prn_status push_missing(uint64_t lines, int32_t reason, uint64_t timestamp_ns);
    prn_status finish();

    prn_status pop(uint64_t timeout_ns, prn_strip &strip);
    prn_status settle(const prn_strip &strip, int32_t verdict);
    prn_status give_back(const prn_strip &strip);

    void describe(prn_ring_info &info) const;
    void read_ledger(prn_ledger &ledger) const;

    std::atomic<uint64_t> references{1};

  private:
    struct Slot {
        std::atomic<uint64_t> word{0};  // strip index << 3 | state
        // Read by threads that only then learn whether the strip is still theirs.
        std::atomic<uint64_t> owned_present{0};
        uint64_t index = 0, first_line = 0, owned_begin = 0, owned_end = 0, arrival_ns = 0;
        uint8_t *pixels = nullptr, *missing = nullptr;
    };
    static constexpr uint32_t NO_SLOT = UINT32_MAX;

    // Producer only. Rows of nullptr are missing lines.
    void append(const uint8_t *rows, uint64_t lines, size_t pitch);
    void append_missing(uint64_t lines, int32_t reason);
    void open_strip(uint64_t index);
    void complete(uint32_t completed);
    void move_flush_with(uint64_t end);
    uint32_t acquire_slot();
    void free_unpublished(uint32_t number);

    Slot *slot_of(const prn_strip &strip);
    bool take_oldest(prn_strip &strip);
    bool all_places_are_held() const;
    static bool settle_held(Slot &slot, uint64_t index, std::atomic<uint64_t> &count);

    const prn_ring_options options_;
    const PixelFormat format_;
    const uint64_t stride_;
    const size_t line_bytes_;  // of an 8-bit line in a strip

    std::vector<uint8_t> memory_;
    std::unique_ptr<Slot[]> slots_;
    const uint32_t slot_count_;

    // Producer only.
    std::atomic_flag producing_ = ATOMIC_FLAG_INIT;
    uint32_t filling_ = NO_SLOT;       // the oldest strip that lacks lines
    uint32_t filling_next_ = NO_SLOT;  // the one after it, within the overlap
    uint32_t last_complete_ = NO_SLOT;
    std::vector<uint8_t> last_line_;  // the last line received: what missing lines repeat
    uint64_t timestamp_ns_ = 0;

    std::atomic<uint32_t> held_{0};
    std::atomic<bool> finished_{false};

    std::atomic<uint64_t> next_line_{0};
    std::atomic<uint64_t> inspected_{0};
    std::atomic<uint64_t> missing_[PRN_MISSING_REASONS] = {};
    std::atomic<uint64_t> dropped_[PRN_DROPPED_REASONS] = {};
};

}  // namespace prn::core
