// The C interface: checks what crosses it, and lets no exception through.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>

#include "line_ring.hpp"
#include "prn_fast/linescan.h"

struct prn_ring {
    explicit prn_ring(const prn_ring_options &options) : ring(options) {}
    prn::core::LineRing ring;
};

namespace {

// Size of a structure as the oldest caller of this ABI version knows it: the end of its last field at that time. Fields
// appended since then do not count.
#define PRN_END_OF(type, field) (offsetof(type, field) + sizeof(type::field))
template <typename Struct>
constexpr size_t FIRST_SIZE = 0;
template <>
constexpr size_t FIRST_SIZE<prn_ring_options> = PRN_END_OF(prn_ring_options, depth);
template <>
constexpr size_t FIRST_SIZE<prn_ring_info> = PRN_END_OF(prn_ring_info, row_bytes);
template <>
constexpr size_t FIRST_SIZE<prn_strip> = PRN_END_OF(prn_strip, missing);
template <>
constexpr size_t FIRST_SIZE<prn_ledger> = PRN_END_OF(prn_ledger, dropped);
#undef PRN_END_OF
// A newer caller's structure may be longer, but no longer than this: beyond is memory that nobody set.
constexpr size_t MAX_SIZE = 4096;

// Whether a caller states how much of the structure it knows, and that is a size that it can know.
template <typename Struct>
bool is_sized(const Struct *value) {
    static_assert(FIRST_SIZE<Struct> > 0, "every structure has its first size");
    return value != nullptr && value->struct_size >= FIRST_SIZE<Struct> && value->struct_size <= MAX_SIZE;
}

// Read no more of an argument than its caller knows; an older caller's missing fields are 0.
template <typename Struct>
bool read_struct(const Struct *from, Struct &to) {
    if (!is_sized(from)) {
        return false;
    }
    to = {};
    std::memcpy(&to, from, std::min<size_t>(from->struct_size, sizeof(Struct)));
    return true;
}

// Write no more than the caller knows; its struct_size stays.
template <typename Struct>
void write_struct(const Struct &from, Struct *to) {
    const uint32_t size = to->struct_size;
    std::memcpy(to, &from, std::min<size_t>(size, sizeof(Struct)));
    to->struct_size = size;
}

}  // namespace

uint32_t prn_abi_version(void) {
    return PRN_ABI_VERSION;
}

const prn_ring_api *prn_get_ring_api(void) {
    static const prn_ring_api api = {
        sizeof(prn_ring_api), PRN_ABI_VERSION,    prn_ring_create,       prn_ring_retain, prn_ring_release,
        prn_ring_describe,    prn_ring_push,      prn_ring_push_missing, prn_ring_finish, prn_ring_pop,
        prn_ring_settle,      prn_ring_give_back, prn_ring_read_ledger,
    };
    return &api;
}

const char *prn_status_text(prn_status status) {
    switch (status) {
        case PRN_OK:
            return "done";
        case PRN_EMPTY:
            return "no strip came in time";
        case PRN_END:
            return "the web has ended and every strip was taken";
        case PRN_BAD_ARGUMENT:
            return "an argument is missing or out of range, or a row pitch is smaller than a row";
        case PRN_BAD_OPTIONS:
            return "width, pixel format, tile, overlap or depth cannot work: tile is 1..width (at most 16384), overlap "
                   "0..tile/2, depth 1..1024, and a row of a packed format fills whole bytes";
        case PRN_NO_MEMORY:
            return "there is not enough memory for the ring; lower depth";
        case PRN_STALE_LINE:
            return "first_line is below the next line: these lines came before";
        case PRN_FINISHED:
            return "the web was finished; open a new ring";
        case PRN_BUSY:
            return "another thread is pushing; one thread pushes";
        case PRN_TOO_MANY_HELD:
            return "as many strips are held as depth allows; let go of strips and views first, copy what is kept";
        case PRN_SETTLED:
            return "the strip already has its verdict or was given back";
        default:
            return "unknown status";
    }
}

prn_status prn_ring_create(const prn_ring_options *options, prn_ring **ring) {
    prn_ring_options known;
    if (ring == nullptr) {
        return PRN_BAD_ARGUMENT;
    }
    *ring = nullptr;
    if (!read_struct(options, known)) {
        return PRN_BAD_ARGUMENT;
    }
    if (const prn_status status = prn::core::LineRing::check(known); status != PRN_OK) {
        return status;
    }
    try {
        *ring = new prn_ring(known);
    } catch (const std::exception &) {
        return PRN_NO_MEMORY;
    }
    return PRN_OK;
}

void prn_ring_retain(prn_ring *ring) {
    if (ring != nullptr) {
        ring->ring.references.fetch_add(1, std::memory_order_relaxed);
    }
}

void prn_ring_release(prn_ring *ring) {
    if (ring != nullptr && ring->ring.references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        delete ring;
    }
}

prn_status prn_ring_describe(const prn_ring *ring, prn_ring_info *info) {
    if (ring == nullptr || !is_sized(info)) {
        return PRN_BAD_ARGUMENT;
    }
    prn_ring_info whole = {};
    ring->ring.describe(whole);
    write_struct(whole, info);
    return PRN_OK;
}

prn_status prn_ring_push(prn_ring *ring, const void *rows, uint64_t lines, size_t pitch, uint64_t first_line,
                         uint64_t timestamp_ns) {
    return ring == nullptr
               ? PRN_BAD_ARGUMENT
               : ring->ring.push(static_cast<const uint8_t *>(rows), lines, pitch, first_line, timestamp_ns);
}

prn_status prn_ring_push_missing(prn_ring *ring, uint64_t lines, int32_t reason, uint64_t timestamp_ns) {
    return ring == nullptr ? PRN_BAD_ARGUMENT : ring->ring.push_missing(lines, reason, timestamp_ns);
}

prn_status prn_ring_finish(prn_ring *ring) {
    return ring == nullptr ? PRN_BAD_ARGUMENT : ring->ring.finish();
}

prn_status prn_ring_pop(prn_ring *ring, uint64_t timeout_ns, prn_strip *strip) {
    if (ring == nullptr || !is_sized(strip)) {
        return PRN_BAD_ARGUMENT;
    }
    prn_strip whole = {};
    const prn_status status = ring->ring.pop(timeout_ns, whole);
    if (status == PRN_OK) {
        write_struct(whole, strip);
    }
    return status;
}

prn_status prn_ring_settle(prn_ring *ring, const prn_strip *strip, int32_t verdict) {
    prn_strip known;
    return ring == nullptr || !read_struct(strip, known) ? PRN_BAD_ARGUMENT : ring->ring.settle(known, verdict);
}

prn_status prn_ring_give_back(prn_ring *ring, const prn_strip *strip) {
    prn_strip known;
    return ring == nullptr || !read_struct(strip, known) ? PRN_BAD_ARGUMENT : ring->ring.give_back(known);
}

prn_status prn_ring_read_ledger(const prn_ring *ring, prn_ledger *ledger) {
    if (ring == nullptr || !is_sized(ledger)) {
        return PRN_BAD_ARGUMENT;
    }
    prn_ledger whole = {};
    ring->ring.read_ledger(whole);
    write_struct(whole, ledger);
    return PRN_OK;
}
