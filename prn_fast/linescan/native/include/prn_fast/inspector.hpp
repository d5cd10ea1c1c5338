// The whole inspection inside a C++ program: lines in, defects out. docs/embedding.md describes threads and lifetimes.
//
//     prn::Inspector inspector("bottle.prn", options);
//     inspector.on_defect([](const prn::Defect &defect) { ... });
//     inspector.push(block);  // from the grab callback: copies the lines and returns
//     inspector.finish();
//
// The engine runs in a Python interpreter inside this process, on a thread of its own. The first Inspector starts the
// interpreter, unless the process already has one; it never ends before the process.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "linescan.hpp"

namespace prn {

struct InspectorOptions {
    uint32_t width = 0;                 // pixels in a line
    uint32_t pixel_format = PRN_MONO8;  // PFNC code
    uint32_t overlap = 32;              // of the tiles, pixels and lines
    uint32_t depth = 8;                 // strips that may wait; then the oldest is dropped ("queue_full") and counted
    double budget_ms = 0;               // a strip that waited longer is dropped ("overload") and counted; 0: none is
    std::string engine;                 // "openvino:int8", or "grpc://HOST:8001/NAME"; empty: the package's best
    double threshold = 0;               // of the anomaly map, 0..1; 0: the package's
    uint32_t min_area = 0;              // smaller regions are no defects, pixels; 0: the default
    double pixel_mm = 0, line_mm = 0;   // size of a pixel on the web, both or none
    uint32_t drift_window = 1000;       // tiles that are compared with the calibration, 100 or more; 0: none
    // Python executable whose environment holds prn_fast; empty: the one that CMake found. Unused in a process that has
    // an interpreter.
    std::string python;
};

// Lines as the camera delivers them. They are copied by push, so the buffer goes back to the camera at once.
struct Block {
    const void *rows = nullptr;
    uint64_t lines = 0;
    size_t pitch = 0;                   // bytes from row to row; 0: no padding
    uint64_t first_line = PRN_FOLLOWS;  // number of the first row; lines skipped count as missing
    uint64_t timestamp_ns = 0;          // arrival on the monotonic clock; 0: now
};

// A connected region of the anomaly map at or above the threshold; reported once, when it has ended.
struct Defect {
    uint64_t number = 0;  // counts up from 1
    uint64_t first_line = 0, left = 0;
    uint64_t lines = 0, width = 0;
    uint64_t area = 0;       // pixels
    double peak = 0;         // of the anomaly map, 0..1
    std::string severity;    // "minor", "major" or "critical"
    bool continues = false;  // cut at the greatest length; what follows is another defect
};

// How the web compares with what the package was calibrated on; docs/drift.md.
struct Drift {
    std::string state;    // "learning", "ok", "watch" or "act", as everywhere; empty: not watched
    std::string reason;   // why, in words; empty where all is well
    uint64_t tiles = 0;   // seen when the state was reported
    uint64_t window = 0;  // tiles that are compared
    std::string notes;    // what replaces a missing or small reference, one line each
};

namespace detail {
struct Inspection;
}

class Inspector {
  public:
    // Opens the package and its engine; prn::Error says what is wrong.
    Inspector(const std::string &package, const InspectorOptions &options);
    // Ends at once: waiting strips are dropped and counted ("closed"). Call finish first to have them inspected.
    ~Inspector();
    Inspector(const Inspector &) = delete;
    Inspector &operator=(const Inspector &) = delete;

    // Called on the inspecting thread, without the interpreter's lock. Set them before the first push.
    void on_defect(std::function<void(const Defect &)> callback);
    // The engine failed: its strip and all lines that follow count as dropped ("engine_error"). Or a callback threw.
    void on_error(std::function<void(const std::string &)> callback);

    // The state of drift: told before the first strip is inspected, by this call itself if it is known already, and
    // when it changes.
    void on_drift(std::function<void(const Drift &)> callback);

    // Grab side, one thread: copies the lines, never waits for the engine or for Python.
    void push(const Block &block);
    // Lines that never arrived; reason: one of PRN_MISSING_*.
    void push_missing(uint64_t lines, int32_t reason);
    // End of the web: waits until every line is inspected and every defect reported.
    void finish();

    // Any thread.
    prn_ledger ledger() const;
    // As last reported.
    Drift drift() const;

  private:
    std::unique_ptr<detail::Inspection> inspection_;
};

}  // namespace prn
