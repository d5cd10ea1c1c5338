// prn::Inspector in a process that has an interpreter already, and whose main thread never lets go of its lock.
//
//     embedding_check PYTHON PACKAGE WIDTH
//
// Prints "CHECK NAME" as each check passes; a deadlock shows as a missing line. Exit status 0: all passed.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
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

void exceptions_are_contained(const char *package, const prn::InspectorOptions &options, const Web &web) {
    plant_failure();
    prn::Inspector inspector(package, options);
    std::mutex mutex;
    std::vector<std::string> errors;
    std::atomic<int> defects{0};
    inspector.on_error([&](const std::string &text) {
        const std::lock_guard<std::mutex> lock(mutex);
        errors.push_back(text);
    });
    inspector.on_defect([&](const prn::Defect &defect) {
        if (defect.number == 1) {
            inspector.finish();  // refused: it would wait for itself
        }
        ++defects;
    });
    inspector.push(web.block(0, LINES));
    inspector.finish();

    const prn_ledger ledger = inspector.ledger();
    require(ledger.lines == LINES && settled(ledger) == LINES, "the ledger balances");
    require(ledger.dropped[PRN_DROPPED_ENGINE_ERROR] == 32, "the failed strip's lines are dropped");
    require(ledger.inspected == LINES - 32, "all other lines are inspected");
    bool planted = false, refused = false;
    for (const std::string &text : errors) {
        planted = planted || text == "lines 96 to 127: RuntimeError: planted failure";
        refused = refused || text.find("a callback cannot finish") != std::string::npos;
    }
    require(planted, "the exception is reported with its lines, in one line");
    require(refused && defects > 0, "a failing callback is reported, and other defects come all the same");
    passed("exceptions are contained");
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

void destroying_with_the_lock_held(const char *package, const prn::InspectorOptions &options, const Web &web) {
    {
        prn::Inspector inspector(package, options);
        inspector.push(web.block(0, LINES));
    }
    require(PyGILState_Check() == 1, "the lock is held again");
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

void errors_of_opening(const prn::InspectorOptions &options) {
    try {
        prn::Inspector inspector("/nowhere.prn", options);
        require(false, "a missing package is an error");
    } catch (const prn::Error &error) {
        require(std::string(error.what()).find("/nowhere.prn") != std::string::npos, "the error names the package");
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
    errors_of_opening(options);
    exceptions_are_contained(arguments[2], options, web);
    grabbing_goes_on_while_python_is_busy(arguments[2], options, web);
    late_strips_are_dropped_and_counted(arguments[2], options, web);
    destroying_with_the_lock_held(arguments[2], options, web);
    return 0;
}
