// Python's view of the native core: prn_fast/linescan/_native.pyi describes it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include "pixel_format.hpp"
#include "prn_fast/linescan.hpp"

namespace py = pybind11;
using prn::Error;

namespace {

constexpr std::array<const char *, PRN_MISSING_REASONS> MISSING_REASONS = {"gap", "incomplete", "failed",
                                                                           "camera_lost"};
constexpr std::array<const char *, PRN_DROPPED_REASONS> DROP_REASONS = {"queue_full", "overload", "engine_error",
                                                                        "abandoned", "closed"};

struct NamedFormat {
    const char *name;
    uint32_t code;
};
constexpr std::array<NamedFormat, 14> PIXEL_FORMATS = {{
    {"Mono8", PRN_MONO8},
    {"Mono10", PRN_MONO10},
    {"Mono10p", PRN_MONO10P},
    {"Mono10Packed", PRN_MONO10PACKED},
    {"Mono12", PRN_MONO12},
    {"Mono12p", PRN_MONO12P},
    {"Mono12Packed", PRN_MONO12PACKED},
    {"Mono16", PRN_MONO16},
    {"BayerGR8", PRN_BAYERGR8},
    {"BayerRG8", PRN_BAYERRG8},
    {"BayerGB8", PRN_BAYERGB8},
    {"BayerBG8", PRN_BAYERBG8},
    {"RGB8", PRN_RGB8},
    {"BGR8", PRN_BGR8},
}};

template <typename Names>
std::string listed(const Names &names) {
    std::string list;
    for (const char *name : names) {
        list += (list.empty() ? "" : ", ") + std::string(name);
    }
    return list;
}

template <typename Names>
int32_t reason_code(const Names &names, const std::string &reason) {
    const auto found = std::find(names.begin(), names.end(), reason);
    if (found == names.end()) {
        throw Error("unknown reason '" + reason + "'; choose one of " + listed(names));
    }
    return int32_t(found - names.begin());
}

template <typename Names>
py::tuple as_tuple(const Names &names) {
    py::tuple tuple(names.size());
    for (size_t i = 0; i < names.size(); ++i) {
        tuple[i] = names[i];
    }
    return tuple;
}

std::array<const char *, PIXEL_FORMATS.size()> format_names() {
    std::array<const char *, PIXEL_FORMATS.size()> names{};
    std::transform(PIXEL_FORMATS.begin(), PIXEL_FORMATS.end(), names.begin(),
                   [](const NamedFormat &f) { return f.name; });
    return names;
}

uint32_t format_code(const std::string &name) {
    for (const NamedFormat &format : PIXEL_FORMATS) {
        if (name == format.name) {
            return format.code;
        }
    }
    throw Error("unknown pixel format '" + name + "'; choose one of " + listed(format_names()));
}

std::string format_name(int64_t code) {
    for (const NamedFormat &format : PIXEL_FORMATS) {
        if (code == int64_t(format.code)) {
            return format.name;
        }
    }
    throw Error("pixel format with PFNC code " + std::to_string(code) + " is not supported; choose one of " +
                listed(format_names()));
}

uint32_t to_u32(int64_t value, const char *name) {
    if (value < 0 || value > int64_t(UINT32_MAX)) {
        throw Error(std::string(name) + " must be a positive 32-bit number, not " + std::to_string(value));
    }
    return uint32_t(value);
}

uint64_t row_bytes(const std::string &name, int64_t width) {
    const prn::core::PixelFormat *format = prn::core::find_pixel_format(format_code(name));
    const uint32_t pixels = to_u32(width, "width");
    if (!format->fits(pixels)) {
        throw Error("a line of " + std::to_string(width) + " pixels cannot be " + name +
                    "; its width is a multiple of " + std::to_string(format->group_pixels));
    }
    return format->row_bytes(pixels);
}

uint64_t to_u64(int64_t value, const char *name) {
    if (value < 0) {
        throw Error(std::string(name) + " must not be negative, but is " + std::to_string(value));
    }
    return uint64_t(value);
}

std::string shape_text(const py::array &array) {
    return py::str(array.attr("dtype")).cast<std::string>() + " " + py::str(array.attr("shape")).cast<std::string>();
}

// Whether the elements from axis 1 on lie side by side, as C orders them.
bool rows_are_contiguous(const py::array &array) {
    py::ssize_t expected = array.itemsize();
    for (py::ssize_t axis = array.ndim() - 1; axis >= 1; --axis) {
        if (array.size() > 0 && array.shape(axis) > 1 && array.strides(axis) != expected) {
            return false;
        }
        expected *= array.shape(axis);
    }
    return true;
}

bool is_bytes(const py::array &array) {
    return array.dtype().kind() == 'u' && array.itemsize() == 1;
}

bool is_little_endian_words(const py::array &array) {
    return array.dtype().kind() == 'u' && array.itemsize() == 2 && array.dtype().byteorder() != '>';
}

struct Ledger {
    prn_ledger counts;

    uint64_t waiting() const {
        uint64_t settled = counts.inspected;
        for (const uint64_t lines : counts.missing) settled += lines;
        for (const uint64_t lines : counts.dropped) settled += lines;
        return counts.lines - settled;
    }
    template <typename Names>
    static py::dict by_reason(const Names &names, const uint64_t *lines) {
        py::dict dict;
        for (size_t i = 0; i < names.size(); ++i) {
            dict[names[i]] = lines[i];
        }
        return dict;
    }
    py::dict missing() const { return by_reason(MISSING_REASONS, counts.missing); }
    py::dict dropped() const { return by_reason(DROP_REASONS, counts.dropped); }
    std::string text() const {
        return py::str("Ledger(lines={}, inspected={}, missing={}, dropped={}, waiting={})")
            .format(counts.lines, counts.inspected, missing(), dropped(), waiting())
            .cast<std::string>();
    }
};

// Lent memory is shared by the strip, until it is settled, and its numpy views; it goes back when the last of them is
// gone. Giving it back is one atomic store: it neither waits for anyone nor makes the grab thread wait.
class Strip {
  public:
    Strip(prn::Strip lent, const prn_ring_info &info)
        : fields_(*lent.operator->()), info_(info), lent_(std::make_shared<prn::Strip>(std::move(lent))) {}

    const prn_strip &fields() const { return fields_; }
    py::array pixels() const {
        return view(py::dtype::of<uint8_t>(), {info_.tile, info_.width, info_.channels}, fields_.pixels);
    }
    py::array missing() const { return view(py::dtype::of<bool>(), {info_.tile}, fields_.missing); }

    void inspected() { settle(PRN_INSPECTED); }
    void drop(const std::string &reason) { settle(reason_code(DROP_REASONS, reason)); }

  private:
    using Lent = std::shared_ptr<prn::Strip>;

    py::array view(const py::dtype &dtype, std::vector<py::ssize_t> shape, const uint8_t *data) const {
        if (!lent_) {
            throw Error("the strip has its verdict and went back to the ring; take its views before, or copy them");
        }
        const py::capsule owner(new Lent(lent_), [](void *lent) { delete static_cast<Lent *>(lent); });
        py::array view(dtype, std::move(shape), data, owner);
        view.attr("setflags")(py::arg("write") = false);
        return view;
    }

    void settle(int32_t verdict) {
        if (!lent_) {
            throw Error(prn_status_text(PRN_SETTLED));
        }
        verdict == PRN_INSPECTED ? lent_->inspected() : lent_->drop(verdict);
        lent_.reset();
    }

    const prn_strip fields_;
    const prn_ring_info info_;
    Lent lent_;
};

class LineRing {
  public:
    explicit LineRing(prn::LineRing ring) : ring_(std::move(ring)), info_(ring_.info()) {}

    prn_ring_info info() const { return ring_.info(); }
    const prn_ring_info &fixed() const { return info_; }

    void push(const py::array &rows, std::optional<int64_t> first_line, std::optional<int64_t> timestamp_ns) {
        check_rows(rows);
        const uint64_t lines = uint64_t(rows.shape(0));
        if (lines > 1 && (rows.strides(0) < 0 || uint64_t(rows.strides(0)) < info_.row_bytes)) {
            throw Error("rows lie " + std::to_string(rows.strides(0)) + " bytes apart; a row has " +
                        std::to_string(info_.row_bytes) + " bytes");
        }
        const size_t pitch = lines > 1 ? size_t(rows.strides(0)) : 0;
        const uint64_t first = first_line ? to_u64(*first_line, "first_line") : PRN_FOLLOWS;
        const uint64_t timestamp = to_u64(timestamp_ns.value_or(0), "timestamp_ns");
        const void *data = rows.data();
        const py::gil_scoped_release without_gil;
        ring_.push(data, lines, pitch, first, timestamp);
    }

    void push_missing(int64_t lines, const std::string &reason, std::optional<int64_t> timestamp_ns) {
        const int32_t code = reason_code(MISSING_REASONS, reason);
        const uint64_t timestamp = to_u64(timestamp_ns.value_or(0), "timestamp_ns");
        const uint64_t count = to_u64(lines, "lines");
        const py::gil_scoped_release without_gil;
        ring_.push_missing(count, code, timestamp);
    }

    void finish() {
        const py::gil_scoped_release without_gil;
        ring_.finish();
    }

    std::unique_ptr<Strip> pop(double timeout) {
        if (!(timeout >= 0)) {
            throw Error("timeout must be 0 seconds or more, not " + std::to_string(timeout));
        }
        // In slices, so that Ctrl-C works while waiting.
        constexpr double SLICE = 0.1;
        for (;; timeout -= SLICE) {
            bool ended = false;
            std::optional<prn::Strip> strip = pop_within(std::min(timeout, SLICE), ended);
            if (strip) {
                return std::make_unique<Strip>(std::move(*strip), info_);
            }
            if (PyErr_CheckSignals() != 0) {
                throw py::error_already_set();
            }
            if (ended || timeout <= SLICE) {
                return nullptr;
            }
        }
    }

    Ledger ledger() const { return {ring_.ledger()}; }

  private:
    std::optional<prn::Strip> pop_within(double seconds, bool &ended) {
        const py::gil_scoped_release without_gil;
        std::optional<prn::Strip> strip = ring_.pop(std::chrono::nanoseconds(int64_t(seconds * 1e9)));
        ended = !strip && ring_.info().finished != 0;
        return strip;
    }

    void check_rows(const py::array &rows) const {
        const auto width = py::ssize_t(info_.width), row_bytes = py::ssize_t(info_.row_bytes),
                   channels = py::ssize_t(info_.channels);
        const bool as_bytes = is_bytes(rows) && rows.ndim() == 2 && rows.shape(1) == row_bytes;
        const bool as_pixels = is_bytes(rows) && rows.ndim() == 3 && rows.shape(1) == width &&
                               rows.shape(2) == channels && width * channels == row_bytes;
        const bool as_words =
            is_little_endian_words(rows) && rows.ndim() == 2 && rows.shape(1) == width && 2 * width == row_bytes;
        if (!as_bytes && !as_pixels && !as_words) {
            std::string expected = "uint8 (lines, " + std::to_string(row_bytes) + ")";
            if (channels > 1) {
                expected = "uint8 (lines, " + std::to_string(width) + ", 3)";
            } else if (prn::core::find_pixel_format(info_.pixel_format)->group_bytes == 2) {
                expected = "uint16 (lines, " + std::to_string(width) + "), little-endian";
            }
            throw Error("rows are " + shape_text(rows) + "; a ring for " + format_name(info_.pixel_format) + " takes " +
                        expected);
        }
        if (!rows_are_contiguous(rows)) {
            throw Error("pixels of a row do not lie side by side in memory; pass a contiguous array");
        }
    }

    prn::LineRing ring_;
    const prn_ring_info info_;
};

class Tiler {
  public:
    Tiler(int64_t width, int64_t tile, int64_t overlap)
        : width_(to_u32(width, "width")),
          tile_(to_u32(tile, "tile")),
          overlap_(to_u32(overlap, "overlap")),
          lefts_(prn::tile_starts(width_, tile_, overlap_)) {}

    const std::vector<uint64_t> &lefts() const { return lefts_; }

    py::array cut(const py::array &pixels, std::optional<py::array> out) const {
        if (!is_bytes(pixels) || pixels.ndim() != 3 || pixels.shape(0) != tile_ || pixels.shape(1) != width_ ||
            !rows_are_contiguous(pixels) || pixels.strides(0) < pixels.shape(1) * pixels.shape(2)) {
            throw Error("a strip is uint8 (" + std::to_string(tile_) + ", " + std::to_string(width_) +
                        ", channels) with contiguous rows, not " + shape_text(pixels));
        }
        const std::vector<py::ssize_t> shape = {py::ssize_t(lefts_.size()), tile_, tile_, pixels.shape(2)};
        py::array tiles = out ? *out : py::array_t<uint8_t>(shape);
        if (!is_bytes(tiles) || tiles.ndim() != 4 || !std::equal(shape.begin(), shape.end(), tiles.shape()) ||
            !tiles.writeable() || !(tiles.flags() & py::array::c_style)) {
            throw Error("out must be contiguous, writeable uint8 " + py::str(py::cast(shape)).cast<std::string>() +
                        ", not " + shape_text(tiles));
        }
        const auto *source = static_cast<const uint8_t *>(pixels.data());
        auto *target = static_cast<uint8_t *>(tiles.mutable_data());
        const auto pitch = size_t(pixels.strides(0));
        const auto channels = uint32_t(pixels.shape(2));
        {
            const py::gil_scoped_release without_gil;
            prn::require_ok(prn_cut_tiles(source, pitch, width_, channels, tile_, overlap_, target));
        }
        return tiles;
    }

  private:
    uint32_t width_, tile_, overlap_;
    std::vector<uint64_t> lefts_;
};

LineRing adopt(const py::capsule &capsule) {
    if (std::string(capsule.name() == nullptr ? "" : capsule.name()) != PRN_RING_REFERENCE) {
        throw Error("the capsule does not hold a line ring");
    }
    const auto *reference = capsule.get_pointer<prn_ring_reference>();
    if (reference->api == nullptr) {
        throw Error("the capsule does not hold a line ring");
    }
    if (reference->api->abi_version != PRN_ABI_VERSION || reference->api->struct_size < sizeof(prn_ring_api)) {
        throw Error("the host was built with another version of prn_fast (ABI " +
                    std::to_string(reference->api->abi_version) + ", installed is " + std::to_string(PRN_ABI_VERSION) +
                    "); build the host again");
    }
    if (reference->ring == nullptr) {
        throw Error("the capsule does not hold a line ring");
    }
    reference->api->retain(reference->ring);
    return LineRing(prn::LineRing(prn::RingHandle(reference->ring, reference->api)));
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    py::register_exception_translator([](std::exception_ptr pointer) {
        try {
            std::rethrow_exception(pointer);
        } catch (const Error &error) {
            py::set_error(py::module_::import("prn_fast.errors").attr("LinescanError"), error.what());
        }
    });
    module.attr("ABI_VERSION") = PRN_ABI_VERSION;
    module.attr("MISSING_REASONS") = as_tuple(MISSING_REASONS);
    module.attr("DROP_REASONS") = as_tuple(DROP_REASONS);
    module.attr("PIXEL_FORMATS") = as_tuple(format_names());
    module.def("pixel_format_name", &format_name, py::arg("code"));
    module.def("row_bytes", &row_bytes, py::arg("pixel_format"), py::arg("width"));

    py::class_<Ledger>(module, "Ledger")
        .def_property_readonly("lines", [](const Ledger &ledger) { return ledger.counts.lines; })
        .def_property_readonly("inspected", [](const Ledger &ledger) { return ledger.counts.inspected; })
        .def_property_readonly("missing", &Ledger::missing)
        .def_property_readonly("dropped", &Ledger::dropped)
        .def_property_readonly("waiting", &Ledger::waiting)
        .def("__repr__", &Ledger::text);

    py::class_<Strip>(module, "Strip")
        .def_property_readonly("index", [](const Strip &strip) { return strip.fields().index; })
        .def_property_readonly("first_line", [](const Strip &strip) { return strip.fields().first_line; })
        .def_property_readonly("owned",
                               [](const Strip &strip) {
                                   const py::object range = py::module_::import("builtins").attr("range");
                                   return range(strip.fields().owned_begin, strip.fields().owned_end);
                               })
        .def_property_readonly("arrival_ns", [](const Strip &strip) { return strip.fields().arrival_ns; })
        .def_property_readonly("pixels", &Strip::pixels)
        .def_property_readonly("missing", &Strip::missing)
        .def("inspected", &Strip::inspected)
        .def("drop", &Strip::drop, py::arg("reason"));

    py::class_<LineRing>(module, "LineRing")
        .def(py::init([](int64_t width, const std::string &pixel_format, int64_t tile, int64_t overlap, int64_t depth) {
                 return LineRing(prn::LineRing(prn::LineRingOptions{to_u32(width, "width"), format_code(pixel_format),
                                                                    to_u32(tile, "tile"), to_u32(overlap, "overlap"),
                                                                    to_u32(depth, "depth")}));
             }),
             py::arg("width"), py::arg("pixel_format") = "Mono8", py::kw_only(), py::arg("tile"),
             py::arg("overlap") = 0, py::arg("depth") = 8)
        .def_static("from_capsule", &adopt, py::arg("capsule"))
        .def_property_readonly("width", [](const LineRing &ring) { return ring.fixed().width; })
        .def_property_readonly("channels", [](const LineRing &ring) { return ring.fixed().channels; })
        .def_property_readonly("pixel_format",
                               [](const LineRing &ring) { return format_name(ring.fixed().pixel_format); })
        .def_property_readonly("row_bytes", [](const LineRing &ring) { return ring.fixed().row_bytes; })
        .def_property_readonly("tile", [](const LineRing &ring) { return ring.fixed().tile; })
        .def_property_readonly("overlap", [](const LineRing &ring) { return ring.fixed().overlap; })
        .def_property_readonly("stride", [](const LineRing &ring) { return ring.fixed().tile - ring.fixed().overlap; })
        .def_property_readonly("depth", [](const LineRing &ring) { return ring.fixed().depth; })
        .def_property_readonly("next_line", [](const LineRing &ring) { return ring.ledger().counts.lines; })
        .def_property_readonly("finished", [](const LineRing &ring) { return ring.info().finished != 0; })
        .def("push", &LineRing::push, py::arg("rows").noconvert(), py::arg("first_line") = py::none(),
             py::arg("timestamp_ns") = py::none())
        .def("push_missing", &LineRing::push_missing, py::arg("lines"), py::arg("reason"),
             py::arg("timestamp_ns") = py::none())
        .def("finish", &LineRing::finish)
        .def("pop", &LineRing::pop, py::arg("timeout") = 0.0)
        .def("ledger", &LineRing::ledger);

    py::class_<Tiler>(module, "Tiler")
        .def(py::init<int64_t, int64_t, int64_t>(), py::arg("width"), py::kw_only(), py::arg("tile"),
             py::arg("overlap") = 0)
        .def_property_readonly("lefts", &Tiler::lefts)
        .def("cut", &Tiler::cut, py::arg("pixels").noconvert(), py::arg("out").noconvert() = py::none());
}
