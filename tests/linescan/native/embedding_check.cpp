// prn::Inspector in a process that has an interpreter already, and whose main thread never lets go of its lock.
//
//     embedding_check PYTHON PACKAGE WIDTH
//
// Prints "CHECK NAME" as each check passes; a deadlock shows as a missing line. Exit status 0: all passed.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <limits>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <prn_fast/inspector.hpp>

namespace {

constexpr uint64_t LINES = 64 * 4;  // strips of 64 lines, overlap 32

void require(bool condition, const char *what) {
    if (!condition) {
        std::fprintf(stderr, "failed: %s\n", what);
        std::exit(1);
    }
}

void passed(const char *name) {
    std::printf("CHECK %s\n", name);
    std::fflush(stdout);
}

uint64_t settled(const prn_ledger &ledger) {
    uint64_t lines = ledger.inspected;
    for (const uint64_t missing : ledger.missing) lines += missing;
    for (const uint64_t dropped : ledger.dropped) lines += dropped;
    return lines;
}

struct Web {
    explicit Web(uint32_t width) : width(width), pixels(LINES * width) {
        for (size_t i = 0; i < pixels.size(); ++i) {
            pixels[i] = uint8_t((i * 2654435761u) >> 24);
        }
    }
    prn::Block block(uint64_t from, uint64_t lines) const { return {pixels.data() + from * width, lines}; }

    uint32_t width;
    std::vector<uint8_t> pixels;
};

void start_interpreter(const char *python) {
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    PyConfig_SetBytesString(&config, &config.program_name, python);
    require(!PyStatus_Exception(Py_InitializeFromConfig(&config)), "the host's interpreter starts");
    PyConfig_Clear(&config);
}

// The third strip's inference fails; the engine's first run, before the first strip, is for warming up.
void plant_failure() {
    const char *script =
        "import prn_fast.engine.eager as eager\n"
        "original, calls = eager.EagerEngine.run, []\n"
        "def run(self, images):\n"
        "    calls.append(len(images))\n"
        "    if len(calls) == 4:\n"
        "        raise RuntimeError('planted\\nfailure')\n"
        "    return original(self, images)\n"
        "eager.EagerEngine.run = run\n";
    require(PyRun_SimpleString(script) == 0, "the failure is planted");
}

void a_failing_engine_ends_the_inspection(const char *package, const prn::InspectorOptions &options, const Web &web) {
    plant_failure();
    prn::Inspector inspector(package, options);
    std::mutex mutex;
    std::vector<std::string> errors;
    inspector.on_error([&](const std::string &text) {
        const std::lock_guard<std::mutex> lock(mutex);
        errors.push_back(text);
    });
    inspector.push(web.block(0, LINES));
    inspector.finish();

    const prn_ledger ledger = inspector.ledger();
    require(ledger.lines == LINES && settled(ledger) == LINES, "the ledger balances");
    require(ledger.inspected == 96, "the lines before the failed strip are inspected");
    require(ledger.dropped[PRN_DROPPED_ENGINE_ERROR] == LINES - 96, "its lines and all that follow are dropped");
    require(errors.size() == 1 && errors[0] == "lines 96 to 127: RuntimeError: planted failure",
            "the exception is reported once with its lines, in one line");
    passed("a failing engine ends the inspection");
}

void a_failing_callback_ends_nothing(const char *package, const prn::InspectorOptions &options, const Web &web) {
    prn::Inspector inspector(package, options);
    std::atomic<int> refused{0};
    std::promise<void> told;
    inspector.on_error([&](const std::string &text) {
        refused += text.find("a callback cannot finish") != std::string::npos;
        told.set_value();
    });
    inspector.on_defect([&](const prn::Defect &defect) {
        if (defect.number == 1) {
            inspector.finish();  // refused: it would wait for itself
        }
    });
    // The second strip after the gap ends the defects before it.
    inspector.push(web.block(0, LINES / 2));
    inspector.push_missing(64, PRN_MISSING_GAP);
    inspector.push(web.block(LINES / 2, 64));
    std::future_status status;
    Py_BEGIN_ALLOW_THREADS;
    status = told.get_future().wait_for(std::chrono::seconds(60));
    Py_END_ALLOW_THREADS;
    require(status == std::future_status::ready && refused == 1, "a failing callback is reported");
    inspector.push(web.block(LINES / 2 + 64, LINES / 2 - 64));
    inspector.finish();
    const prn_ledger ledger = inspector.ledger();
    require(ledger.inspected == LINES, "all lines that came are inspected");
    require(ledger.missing[PRN_MISSING_GAP] == 64 && settled(ledger) == LINES + 64, "all others are missing");
    passed("a failing callback ends nothing");
}

void grabbing_goes_on_while_python_is_busy(const char *package, prn::InspectorOptions options, const Web &web) {
    options.depth = 2 * LINES / 32;
    prn::Inspector inspector(package, options);
    std::thread grab([&] {
        for (uint64_t line = 0; line < LINES; line += 16) {
            inspector.push(web.block(line, 16));
        }
    });
    // This thread holds the interpreter's lock until the last line is in, so none may need it to come in.
    grab.join();
    require(inspector.ledger().lines == LINES, "all lines came in");
    inspector.finish();
    require(inspector.ledger().inspected == LINES, "no line was dropped");
    passed("grabbing goes on while Python is busy");
}

// The ring outlives the inspector in Python's hands.
void keep_rings() {
    const char *script =
        "import prn_fast.linescan.embedding as embedding\n"
        "from prn_fast.linescan.core import LineRing\n"
        "rings = []\n"
        "class Kept:\n"
        "    def from_capsule(capsule):\n"
        "        rings.append(LineRing.from_capsule(capsule))\n"
        "        return rings[-1]\n"
        "embedding.LineRing = Kept\n";
    require(PyRun_SimpleString(script) == 0, "rings are kept");
}

void destroying_with_the_lock_held(const char *package, prn::InspectorOptions options, const Web &web) {
    keep_rings();
    options.depth = 1;
    std::atomic<int> errors{0};
    {
        prn::Inspector inspector(package, options);
        inspector.on_error([&](const std::string &) { ++errors; });
        inspector.push(web.block(0, LINES));
    }
    require(PyGILState_Check() == 1, "the lock is held again");
    require(errors == 0, "no error is reported");
    const char *script =
        "ledger = rings.pop().ledger()\n"
        "assert ledger.waiting == 0 and ledger.dropped['closed'] > 0, ledger\n";
    require(PyRun_SimpleString(script) == 0, "what waited is dropped and counted");
    passed("destroying with the lock held");
}

void late_strips_are_dropped_and_counted(const char *package, prn::InspectorOptions options, const Web &web) {
    options.budget_ms = 60000;
    prn::Inspector inspector(package, options);
    prn::Block late = web.block(0, 64);
    late.timestamp_ns = 1;  // arrived when the machine started
    inspector.push(late);
    inspector.push(web.block(64, LINES - 64));
    inspector.finish();
    const prn_ledger ledger = inspector.ledger();
    require(ledger.dropped[PRN_DROPPED_OVERLOAD] == 64, "the late strip is dropped");
    require(ledger.inspected == LINES - 64 && settled(ledger) == LINES, "all others are inspected");
    passed("late strips are dropped and counted");
}

void errors_of_opening(const char *package, const prn::InspectorOptions &options) {
    try {
        prn::Inspector inspector("/nowhere.prn", options);
        require(false, "a missing package is an error");
    } catch (const prn::Error &error) {
        require(std::string(error.what()).find("/nowhere.prn") != std::string::npos, "the error names the package");
    }
    for (double prn::InspectorOptions::*number : {&prn::InspectorOptions::budget_ms, &prn::InspectorOptions::threshold,
                                                  &prn::InspectorOptions::pixel_mm, &prn::InspectorOptions::line_mm}) {
        for (const double value : {-1.0, HUGE_VAL, std::nan("")}) {
            prn::InspectorOptions wrong = options;
            wrong.*number = value;
            try {
                prn::Inspector inspector(package, wrong);
                require(false, "a number that cannot be is an error");
            } catch (const prn::Error &error) {
                require(std::string(error.what()).find("give a finite number") != std::string::npos,
                        "the error says what to give");
            }
        }
    }
    passed("errors of opening");
}

}  // namespace

int main(int count, char **arguments) {
    require(count == 4, "three arguments");
    start_interpreter(arguments[1]);
    const Web web(uint32_t(std::atoi(arguments[3])));
    prn::InspectorOptions options;
    options.width = web.width;
    options.engine = "eager";
    options.threshold = 0.3;
    options.depth = 64;
    errors_of_opening(arguments[2], options);
    a_failing_engine_ends_the_inspection(arguments[2], options, web);
    a_failing_callback_ends_nothing(arguments[2], options, web);
    grabbing_goes_on_while_python_is_busy(arguments[2], options, web);
    late_strips_are_dropped_and_counted(arguments[2], options, web);
    destroying_with_the_lock_held(arguments[2], options, web);
    return 0;
}
