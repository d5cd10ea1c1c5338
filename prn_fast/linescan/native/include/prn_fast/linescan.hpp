// Line ring and tiler for C++: values that own what they hold, errors as exceptions. A thin layer over linescan.h.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "linescan.h"

namespace prn {

class Error : public std::runtime_error {
  public:
    explicit Error(const std::string &what) : std::runtime_error(what) {}
};

inline void require_ok(prn_status status) {
    if (status != PRN_OK) {
        throw Error(prn_status_text(status));
    }
}

struct LineRingOptions {
    uint32_t width = 0;
    uint32_t pixel_format = PRN_MONO8;
    uint32_t tile = 256;
    uint32_t overlap = 32;
    uint32_t depth = 8;
};

// A counted reference to a ring, with the functions of the library that made it.
class RingHandle {
  public:
    RingHandle(prn_ring *adopted, const prn_ring_api *api) : ring_(adopted), api_(api) {}
    RingHandle(const RingHandle &other) : ring_(other.ring_), api_(other.api_) { api_->retain(ring_); }
    RingHandle &operator=(const RingHandle &) = delete;
    ~RingHandle() { api_->release(ring_); }

    prn_ring *ring() const { return ring_; }
    const prn_ring_api *api() const { return api_; }

  private:
    prn_ring *const ring_;
    const prn_ring_api *const api_;
};

// A strip lent by the ring; given back on destruction. Settle it once; unsettled, its lines count as dropped.
class Strip {
  public:
    Strip(RingHandle ring, const prn_strip &fields) : ring_(std::move(ring)), fields_(fields) {}
    Strip(Strip &&other) noexcept
        : ring_(other.ring_), fields_(other.fields_), lent_(std::exchange(other.lent_, false)) {}
    Strip &operator=(Strip &&) = delete;
    ~Strip() {
        if (lent_) {
            ring_.api()->give_back(ring_.ring(), &fields_);
        }
    }

    const prn_strip *operator->() const { return &fields_; }
    void inspected() { require_ok(ring_.api()->settle(ring_.ring(), &fields_, PRN_INSPECTED)); }
    // reason: one of PRN_DROPPED_*.
    void drop(int32_t reason) { require_ok(ring_.api()->settle(ring_.ring(), &fields_, reason)); }

  private:
    RingHandle ring_;
    prn_strip fields_;
    bool lent_ = true;
};

class LineRing {
  public:
    explicit LineRing(const LineRingOptions &options) : LineRing(RingHandle(create(options), prn_get_ring_api())) {}
    explicit LineRing(RingHandle handle) : handle_(std::move(handle)) {}

    // Grab side, one thread: never waits, allocates or locks. See linescan.h.
    void push(const void *rows, uint64_t lines, size_t pitch = 0, uint64_t first_line = PRN_FOLLOWS,
              uint64_t timestamp_ns = 0) {
        require_ok(api()->push(ring(), rows, lines, pitch, first_line, timestamp_ns));
    }
    void push_missing(uint64_t lines, int32_t reason, uint64_t timestamp_ns = 0) {
        require_ok(api()->push_missing(ring(), lines, reason, timestamp_ns));
    }
    void finish() { require_ok(api()->finish(ring())); }

    // Reading side, any thread. Nothing when no strip came in time or the web has ended (`info().finished`).
    std::optional<Strip> pop(std::chrono::nanoseconds timeout = std::chrono::nanoseconds(0)) {
        prn_strip strip = {};
        strip.struct_size = sizeof(strip);
        const auto wait_ns = uint64_t(std::max(timeout, std::chrono::nanoseconds(0)).count());
        const prn_status status = api()->pop(ring(), wait_ns, &strip);
        if (status == PRN_EMPTY || status == PRN_END) {
            return std::nullopt;
        }
        require_ok(status);
        return std::optional<Strip>(std::in_place, handle_, strip);
    }

    prn_ring_info info() const {
        prn_ring_info info = {};
        info.struct_size = sizeof(info);
        require_ok(api()->describe(ring(), &info));
        return info;
    }
    prn_ledger ledger() const {
        prn_ledger ledger = {};
        ledger.struct_size = sizeof(ledger);
        require_ok(api()->read_ledger(ring(), &ledger));
        return ledger;
    }
    const RingHandle &handle() const { return handle_; }

  private:
    static prn_ring *create(const LineRingOptions &options) {
        const prn_ring_options fields = {sizeof(prn_ring_options), options.pixel_format, options.width, options.tile,
                                         options.overlap,          options.depth};
        prn_ring *ring = nullptr;
        require_ok(prn_ring_create(&fields, &ring));
        return ring;
    }
    prn_ring *ring() const { return handle_.ring(); }
    const prn_ring_api *api() const { return handle_.api(); }

    RingHandle handle_;
};

// Starts of the tiles along an axis: multiples of tile - overlap, the last flush with the end.
inline std::vector<uint64_t> tile_starts(uint64_t length, uint64_t tile, uint64_t overlap) {
    std::vector<uint64_t> starts(prn_tile_count(length, tile, overlap));
    if (starts.empty()) {
        throw Error("tiles of " + std::to_string(tile) + " with overlap " + std::to_string(overlap) +
                    " do not fit into a length of " + std::to_string(length));
    }
    for (uint64_t k = 0; k < starts.size(); ++k) {
        starts[k] = prn_tile_start(length, tile, overlap, k);
    }
    return starts;
}

}  // namespace prn
