#include "line_ring.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <thread>

namespace prn::core {
namespace {

// SETTLED: held, with its verdict.
enum State : uint64_t { FREE = 0, WRITING = 1, WAITING = 2, HELD = 3, SETTLED = 4 };
constexpr uint64_t STATE_BITS = 3, STATE_MASK = 7;

constexpr uint64_t word_of(uint64_t index, State state) {
    return index << STATE_BITS | state;
}

constexpr uint32_t MAX_WIDTH = 1u << 20, MAX_TILE = 1u << 14, MAX_DEPTH = 1024;
// 400,000 years at 80 kHz: a counter beyond is garbage.
constexpr uint64_t MAX_LINE = 1ull << 60;
// Where a strip cannot be taken yet, the reader looks again this often: the grab path then needs no lock to wake it.
constexpr uint64_t POLL_NS = 200'000;

uint64_t monotonic_ns() {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

// Marks the producing thread; a second producer sees it and is refused.
class Producing {
  public:
    explicit Producing(std::atomic_flag &flag) : flag_(flag), alone(!flag.test_and_set(std::memory_order_acquire)) {}
    ~Producing() {
        if (alone) {
            flag_.clear(std::memory_order_release);
        }
    }
    Producing(const Producing &) = delete;
    Producing &operator=(const Producing &) = delete;

  private:
    std::atomic_flag &flag_;

  public:
    const bool alone;
};

}  // namespace

prn_status LineRing::check(const prn_ring_options &options) {
    const PixelFormat *format = find_pixel_format(options.pixel_format);
    const bool works = format != nullptr && options.width <= MAX_WIDTH && format->fits(options.width) &&
                       options.tile >= 1 && options.tile <= std::min(options.width, MAX_TILE) &&
                       options.overlap <= options.tile / 2 && options.depth >= 1 && options.depth <= MAX_DEPTH;
    return works ? PRN_OK : PRN_BAD_OPTIONS;
}

LineRing::LineRing(const prn_ring_options &options)
    : options_(options),
      format_(*find_pixel_format(options.pixel_format)),
      stride_(options.tile - options.overlap),
      line_bytes_(size_t(options.width) * format_.channels),
      slot_count_(options.depth + 3),
      last_line_(line_bytes_) {
    const size_t strip_bytes = line_bytes_ * options.tile;
    memory_.resize((strip_bytes + options.tile) * slot_count_);
    slots_ = std::make_unique<Slot[]>(slot_count_);
    for (uint32_t i = 0; i < slot_count_; ++i) {
        slots_[i].pixels = memory_.data() + i * strip_bytes;
        slots_[i].missing = memory_.data() + slot_count_ * strip_bytes + size_t(i) * options.tile;
    }
}

// -- producer -----------------------------------------------------------------------------------------------------

prn_status LineRing::push(const uint8_t *rows, uint64_t lines, size_t pitch, uint64_t first_line,
                          uint64_t timestamp_ns) {
    pitch = pitch == 0 ? format_.row_bytes(options_.width) : pitch;
    if ((rows == nullptr && lines > 0) || pitch < format_.row_bytes(options_.width) ||
        (lines > 0 && pitch > SIZE_MAX / lines)) {
        return PRN_BAD_ARGUMENT;
    }
    const Producing producing(producing_);
    if (!producing.alone) {
        return PRN_BUSY;
    }
    if (finished_.load(std::memory_order_relaxed)) {
        return PRN_FINISHED;
    }
    const uint64_t next = next_line_.load(std::memory_order_relaxed);
    if (first_line == PRN_FOLLOWS) {
        first_line = next;
    }
    if (first_line < next) {
        return PRN_STALE_LINE;
    }
    if (first_line > MAX_LINE || lines > MAX_LINE - first_line) {
        return PRN_BAD_ARGUMENT;
    }
    timestamp_ns_ = timestamp_ns != 0 ? timestamp_ns : monotonic_ns();
    if (first_line > next) {
        append_missing(first_line - next, PRN_MISSING_GAP);
    }
    if (lines > 0) {
        append(rows, lines, pitch);
        format_.to_8_bit(rows + (lines - 1) * pitch, last_line_.data(), options_.width);
    }
    return PRN_OK;
}

prn_status LineRing::push_missing(uint64_t lines, int32_t reason, uint64_t timestamp_ns) {
    if (reason < 0 || reason >= PRN_MISSING_REASONS) {
        return PRN_BAD_ARGUMENT;
    }
    const Producing producing(producing_);
    if (!producing.alone) {
        return PRN_BUSY;
    }
    if (finished_.load(std::memory_order_relaxed)) {
        return PRN_FINISHED;
    }
    if (lines > MAX_LINE - next_line_.load(std::memory_order_relaxed)) {
        return PRN_BAD_ARGUMENT;
    }
    timestamp_ns_ = timestamp_ns != 0 ? timestamp_ns : monotonic_ns();
    append_missing(lines, reason);
    return PRN_OK;
}

void LineRing::append_missing(uint64_t lines, int32_t reason) {
    const uint64_t end = next_line_.load(std::memory_order_relaxed) + lines;
    // Past 2 tiles the strips in hand hold missing lines only. Whole strides of such lines change nothing but the
    // numbers, so a gap of any length costs no more than a few strips.
    const uint64_t written_first = std::min<uint64_t>(lines, 2 * uint64_t(options_.tile));
    append(nullptr, written_first, 0);
    const uint64_t skipped = (lines - written_first) / stride_;
    for (const uint32_t held : {filling_, filling_next_, last_complete_}) {
        if (skipped > 0 && held != NO_SLOT) {
            Slot &slot = slots_[held];
            slot.index += skipped;
            slot.first_line += skipped * stride_;
            slot.owned_begin += skipped * stride_;
            slot.owned_end += skipped * stride_;
        }
    }
    next_line_.fetch_add(skipped * stride_, std::memory_order_release);
    append(nullptr, end - next_line_.load(std::memory_order_relaxed), 0);
    missing_[reason].fetch_add(lines, std::memory_order_release);
}

void LineRing::append(const uint8_t *rows, uint64_t lines, size_t pitch) {
    uint64_t line = next_line_.load(std::memory_order_relaxed);
    for (const uint64_t end = line + lines; line < end; ++line) {
        if (line % stride_ == 0) {
            open_strip(line / stride_);
        }
        Slot &slot = slots_[filling_];
        const uint64_t row = line - slot.first_line;
        uint8_t *pixels = slot.pixels + row * line_bytes_;
        if (rows != nullptr) {
            format_.to_8_bit(rows, pixels, options_.width);
            rows += pitch;
        } else {
            std::memcpy(pixels, last_line_.data(), line_bytes_);
        }
        slot.missing[row] = rows == nullptr;
        if (filling_next_ != NO_SLOT) {
            Slot &next = slots_[filling_next_];
            std::memcpy(next.pixels + (line - next.first_line) * line_bytes_, pixels, line_bytes_);
            next.missing[line - next.first_line] = slot.missing[row];
        }
        next_line_.store(line + 1, std::memory_order_release);
        if (row + 1 == options_.tile) {
            complete(filling_);
            filling_ = filling_next_;
            filling_next_ = NO_SLOT;
        }
    }
}

void LineRing::open_strip(uint64_t index) {
    const uint32_t opened = acquire_slot();
    Slot &slot = slots_[opened];
    slot.index = index;
    slot.first_line = index * stride_;
    slot.owned_begin = index == 0 ? 0 : slot.first_line + options_.overlap;
    slot.owned_end = slot.first_line + options_.tile;
    (filling_ == NO_SLOT ? filling_ : filling_next_) = opened;
}

// Publishes a strip, unless none of the lines that it owns arrived: then nothing in it waits for a verdict.
void LineRing::complete(uint32_t completed) {
    free_unpublished(last_complete_);
    last_complete_ = completed;
    Slot &slot = slots_[completed];
    const auto present = uint64_t(std::count(slot.missing + (slot.owned_begin - slot.first_line),
                                             slot.missing + (slot.owned_end - slot.first_line), 0));
    slot.owned_present.store(present, std::memory_order_relaxed);
    slot.arrival_ns = timestamp_ns_;
    if (present > 0) {
        slot.word.store(word_of(slot.index, WAITING), std::memory_order_release);
    }
}

void LineRing::free_unpublished(uint32_t number) {
    if (number != NO_SLOT && (slots_[number].word.load(std::memory_order_relaxed) & STATE_MASK) == WRITING) {
        slots_[number].word.store(FREE, std::memory_order_relaxed);
    }
}

uint32_t LineRing::acquire_slot() {
    for (;;) {
        uint32_t oldest = NO_SLOT;
        uint64_t oldest_word = 0;
        for (uint32_t i = 0; i < slot_count_; ++i) {
            const uint64_t word = slots_[i].word.load(std::memory_order_acquire);
            if (i == last_complete_) {
                continue;
            }
            if ((word & STATE_MASK) == FREE) {
                slots_[i].word.store(WRITING, std::memory_order_relaxed);
                return i;
            }
            if ((word & STATE_MASK) == WAITING && (oldest == NO_SLOT || word < oldest_word)) {
                oldest = i;
                oldest_word = word;
            }
        }
        // The exchange fails where the reader took the strip meanwhile; then another slot is free or waits.
        if (oldest != NO_SLOT && slots_[oldest].word.compare_exchange_strong(oldest_word, WRITING)) {
            dropped_[PRN_DROPPED_QUEUE_FULL].fetch_add(slots_[oldest].owned_present.load(std::memory_order_relaxed),
                                                       std::memory_order_release);
            return oldest;
        }
    }
}

prn_status LineRing::finish() {
    const Producing producing(producing_);
    if (!producing.alone) {
        return PRN_BUSY;
    }
    if (finished_.load(std::memory_order_relaxed)) {
        return PRN_FINISHED;
    }
    const uint64_t end = next_line_.load(std::memory_order_relaxed), tile = options_.tile;
    if (end > 0 && (end < tile || (end - tile) % stride_ != 0)) {
        move_flush_with(end);
        complete(filling_);
        filling_ = NO_SLOT;
    }
    for (const uint32_t in_hand : {filling_, filling_next_, last_complete_}) {
        free_unpublished(in_hand);
    }
    finished_.store(true, std::memory_order_release);
    return PRN_OK;
}

// Makes the strip being filled the last one: its lines end with the web's, and those before come from the strip before
// it. A web shorter than a strip is filled up with missing lines that nobody owns.
void LineRing::move_flush_with(uint64_t end) {
    Slot &slot = slots_[filling_];
    const uint64_t rows = std::min<uint64_t>(end - slot.first_line, options_.tile), lacking = options_.tile - rows;
    slot.owned_end = end;
    if (slot.index == 0) {
        for (uint64_t row = rows; row < options_.tile; ++row) {
            std::memcpy(slot.pixels + row * line_bytes_, last_line_.data(), line_bytes_);
        }
        std::memset(slot.missing + rows, 1, lacking);
        return;
    }
    const Slot &before = slots_[last_complete_];
    const uint64_t from = end - options_.tile - before.first_line;
    std::memmove(slot.pixels + lacking * line_bytes_, slot.pixels, rows * line_bytes_);
    std::memcpy(slot.pixels, before.pixels + from * line_bytes_, lacking * line_bytes_);
    std::memmove(slot.missing + lacking, slot.missing, rows);
    std::memcpy(slot.missing, before.missing + from, lacking);
    slot.first_line = end - options_.tile;
}

// -- reader -------------------------------------------------------------------------------------------------------

prn_status LineRing::pop(uint64_t timeout_ns, prn_strip &strip) {
    const uint64_t begin = monotonic_ns();
    for (;;) {
        // Read first: a strip published before the end is then seen below.
        const bool finished = finished_.load(std::memory_order_acquire);
        if (held_.fetch_add(1) < options_.depth) {
            if (take_oldest(strip)) {
                return PRN_OK;
            }
            held_.fetch_sub(1);
        } else {
            held_.fetch_sub(1);
            if (all_places_are_held()) {
                return PRN_TOO_MANY_HELD;
            }
            // A place that another reader keeps only while it looks, or is giving back.
            std::this_thread::yield();
            continue;
        }
        if (finished) {
            return PRN_END;
        }
        const uint64_t waited = monotonic_ns() - begin;
        if (waited >= timeout_ns) {
            return PRN_EMPTY;
        }
        // The least of both as unsigned numbers: the longest timeout has no place in signed nanoseconds.
        std::this_thread::sleep_for(std::chrono::nanoseconds(std::min(POLL_NS, timeout_ns - waited)));
    }
}

bool LineRing::all_places_are_held() const {
    const auto is_held = [](const Slot &slot) {
        return (slot.word.load(std::memory_order_relaxed) & STATE_MASK) >= HELD;
    };
    return std::count_if(slots_.get(), slots_.get() + slot_count_, is_held) >= std::ptrdiff_t(options_.depth);
}

bool LineRing::take_oldest(prn_strip &strip) {
    for (;;) {
        uint32_t oldest = NO_SLOT;
        uint64_t oldest_word = 0;
        for (uint32_t i = 0; i < slot_count_; ++i) {
            const uint64_t word = slots_[i].word.load(std::memory_order_relaxed);
            if ((word & STATE_MASK) == WAITING && (oldest == NO_SLOT || word < oldest_word)) {
                oldest = i;
                oldest_word = word;
            }
        }
        if (oldest == NO_SLOT) {
            return false;
        }
        // The word holds the strip's index, so the exchange fails if the producer dropped this strip meanwhile.
        Slot &slot = slots_[oldest];
        if (slot.word.compare_exchange_strong(oldest_word, oldest_word | HELD)) {
            strip.slot = oldest;
            strip.index = slot.index;
            strip.first_line = slot.first_line;
            strip.owned_begin = slot.owned_begin;
            strip.owned_end = slot.owned_end;
            strip.arrival_ns = slot.arrival_ns;
            strip.pixels = slot.pixels;
            strip.missing = slot.missing;
            return true;
        }
    }
}

// The slot of a strip that this ring lent, now or before; nullptr for any other.
LineRing::Slot *LineRing::slot_of(const prn_strip &strip) {
    const bool ours = strip.slot < slot_count_ && strip.pixels == slots_[strip.slot].pixels &&
                      strip.index <= UINT64_MAX >> STATE_BITS;
    return ours ? &slots_[strip.slot] : nullptr;
}

// Gives the strip its verdict, unless it has one or was given back.
bool LineRing::settle_held(Slot &slot, uint64_t index, std::atomic<uint64_t> &count) {
    // Read first: once the strip has its verdict, another thread may give it back, and the slot is filled anew.
    const uint64_t lines = slot.owned_present.load(std::memory_order_relaxed);
    uint64_t expected = word_of(index, HELD);
    if (!slot.word.compare_exchange_strong(expected, word_of(index, SETTLED))) {
        return false;
    }
    count.fetch_add(lines, std::memory_order_release);
    return true;
}

prn_status LineRing::settle(const prn_strip &strip, int32_t verdict) {
    Slot *const slot = slot_of(strip);
    if (slot == nullptr || (verdict != PRN_INSPECTED && (verdict < 0 || verdict >= PRN_DROPPED_REASONS))) {
        return PRN_BAD_ARGUMENT;
    }
    std::atomic<uint64_t> &count = verdict == PRN_INSPECTED ? inspected_ : dropped_[verdict];
    return settle_held(*slot, strip.index, count) ? PRN_OK : PRN_SETTLED;
}

prn_status LineRing::give_back(const prn_strip &strip) {
    Slot *const slot = slot_of(strip);
    if (slot == nullptr) {
        return PRN_BAD_ARGUMENT;
    }
    settle_held(*slot, strip.index, dropped_[PRN_DROPPED_ABANDONED]);
    uint64_t expected = word_of(strip.index, SETTLED);
    if (!slot->word.compare_exchange_strong(expected, FREE)) {
        return PRN_SETTLED;
    }
    held_.fetch_sub(1);
    return PRN_OK;
}

// -- both ---------------------------------------------------------------------------------------------------------

void LineRing::describe(prn_ring_info &info) const {
    info.pixel_format = options_.pixel_format;
    info.width = options_.width;
    info.channels = format_.channels;
    info.tile = options_.tile;
    info.overlap = options_.overlap;
    info.depth = options_.depth;
    info.row_bytes = format_.row_bytes(options_.width);
    info.finished = finished_.load(std::memory_order_acquire) &&
                    std::none_of(slots_.get(), slots_.get() + slot_count_, [](const Slot &slot) {
                        return (slot.word.load(std::memory_order_relaxed) & STATE_MASK) == WAITING;
                    });
}

void LineRing::read_ledger(prn_ledger &ledger) const {
    // Lines last: they are counted before what becomes of them, so the sum never exceeds them.
    ledger.inspected = inspected_.load(std::memory_order_acquire);
    for (int reason = 0; reason < PRN_MISSING_REASONS; ++reason) {
        ledger.missing[reason] = missing_[reason].load(std::memory_order_acquire);
    }
    for (int reason = 0; reason < PRN_DROPPED_REASONS; ++reason) {
        ledger.dropped[reason] = dropped_[reason].load(std::memory_order_acquire);
    }
    ledger.lines = next_line_.load(std::memory_order_acquire);
}

}  // namespace prn::core
