// Hosts the Python inspection: one thread that enters the interpreter once and stays in `prn_fast.linescan.embedding`.
#include "embedded_python.hpp"

#include "prn_fast/inspector.hpp"

#include <atomic>
#include <cmath>
#include <exception>
#include <future>
#include <mutex>
#include <thread>

namespace prn {

using python::Object;
using python::require_object;
using python::start_python;
using python::take_exception;
using python::WithGil;
using python::WithoutGil;

namespace detail {

struct Inspection {
    std::optional<LineRing> ring;
    std::thread inspecting;
    std::atomic<bool> closing{false};  // the inspecting thread drops what waits; it alone reads the ring

    void run(const std::string &package, const InspectorOptions &options, std::promise<void> ready);
    void drop_all(int32_t reason);
    void end_web();

    // A callback is copied and called without the mutex, so it may set another.
    template <typename Callback, typename Value>
    void call(const Callback &callback, const Value &value) {
        std::unique_lock<std::mutex> lock(callbacks_mutex);
        const Callback copy = callback;
        lock.unlock();
        if (copy) {
            copy(value);
        }
    }
    template <typename Callback>
    void set(Callback &callback, Callback to) {
        const std::lock_guard<std::mutex> lock(callbacks_mutex);
        callback = std::move(to);
    }

    std::mutex callbacks_mutex;
    std::function<void(const Defect &)> on_defect;
    std::function<void(const std::string &)> on_error;

    // Keeps what is reported before the host has set on_drift, and hands it over then: each report is told once.
    std::mutex drift_mutex;
    std::function<void(const Drift &)> on_drift;
    Drift drift;  // the last that was reported
    bool drift_waits = false;
};

}  // namespace detail

namespace {

using detail::Inspection;

constexpr char INSPECTION_CAPSULE[] = "prn_fast.inspection";

Inspection &inspection_of(PyObject *capsule) {
    return *static_cast<Inspection *>(PyCapsule_GetPointer(capsule, INSPECTION_CAPSULE));
}

// Runs a callback of the host without the interpreter's lock; its exception becomes one of Python.
template <typename Call>
PyObject *call_host(const Call &call) {
    std::string failure;
    PyThreadState *const saved = PyEval_SaveThread();
    try {
        call();
    } catch (const std::exception &error) {
        failure = error.what();
    } catch (...) {
        failure = "unknown exception";
    }
    PyEval_RestoreThread(saved);
    if (!failure.empty()) {
        return PyErr_Format(PyExc_RuntimeError, "a callback of the host failed: %s", failure.c_str());
    }
    Py_RETURN_NONE;
}

PyObject *report_defect(PyObject *capsule, PyObject *fields) {
    Defect defect;
    unsigned long long number, first_line, left, lines, width, area;
    const char *severity = nullptr;
    int continues = 0;
    if (!PyArg_ParseTuple(fields, "KKKKKKdsp", &number, &first_line, &left, &lines, &width, &area, &defect.peak,
                          &severity, &continues)) {
        return nullptr;
    }
    defect.number = number;
    defect.first_line = first_line;
    defect.left = left;
    defect.lines = lines;
    defect.width = width;
    defect.area = area;
    defect.severity = severity;
    defect.continues = continues != 0;
    Inspection &inspection = inspection_of(capsule);
    return call_host([&] { inspection.call(inspection.on_defect, defect); });
}

PyObject *report_error(PyObject *capsule, PyObject *fields) {
    const char *text = nullptr;
    if (!PyArg_ParseTuple(fields, "s", &text)) {
        return nullptr;
    }
    Inspection &inspection = inspection_of(capsule);
    return call_host([&, line = std::string(text)] { inspection.call(inspection.on_error, line); });
}

PyObject *report_drift(PyObject *capsule, PyObject *fields) {
    const char *state = nullptr, *reason = nullptr, *notes = nullptr;
    unsigned long long tiles = 0, window = 0;
    if (!PyArg_ParseTuple(fields, "ssKKs", &state, &reason, &tiles, &window, &notes)) {
        return nullptr;
    }
    const Drift drift = {state, reason, tiles, window, notes};
    Inspection &inspection = inspection_of(capsule);
    std::function<void(const Drift &)> told;
    {
        const std::lock_guard<std::mutex> lock(inspection.drift_mutex);
        inspection.drift = drift;
        told = inspection.on_drift;
        inspection.drift_waits = !told;
    }
    return call_host([&] {
        if (told) {
            told(drift);
        }
    });
}

PyObject *is_closing(PyObject *capsule, PyObject *) {
    return PyBool_FromLong(inspection_of(capsule).closing);
}

PyMethodDef REPORT_DEFECT = {"report_defect", report_defect, METH_VARARGS, nullptr};
PyMethodDef REPORT_ERROR = {"report_error", report_error, METH_VARARGS, nullptr};
PyMethodDef REPORT_DRIFT = {"report_drift", report_drift, METH_VARARGS, nullptr};
PyMethodDef IS_CLOSING = {"is_closing", is_closing, METH_NOARGS, nullptr};

PyObject *import_embedding() {
    if (PyObject *const module = PyImport_ImportModule("prn_fast.linescan.embedding")) {
        return module;
    }
    const std::string failure = take_exception();
    const char *executable = nullptr;
    if (PyObject *const path = PySys_GetObject("executable"); path != nullptr && PyUnicode_Check(path)) {
        executable = PyUnicode_AsUTF8(path);
    }
    throw Error(failure + " (in the Python of " + (executable == nullptr ? "this process" : executable) +
                "; prn_fast must be installed there, or options.python name another)");
}

PyObject *open_host(const std::string &package, const InspectorOptions &options) {
    const Object module(import_embedding());
    const Object type(require_object(PyObject_GetAttrString(module.get(), "Host")));
    const Object arguments(require_object(Py_BuildValue("(s)", package.c_str())));
    const Object settings(require_object(
        Py_BuildValue("{s:I,s:I,s:I,s:s,s:d,s:I,s:d,s:d,s:d,s:I}", "width", options.width, "pixel_format",
                      options.pixel_format, "overlap", options.overlap, "engine", options.engine.c_str(), "threshold",
                      options.threshold, "min_area", options.min_area, "pixel_mm", options.pixel_mm, "line_mm",
                      options.line_mm, "budget_ms", options.budget_ms, "drift_window", options.drift_window)));
    return require_object(PyObject_Call(type.get(), arguments.get(), settings.get()));
}

// Refuses what Python would take for something else: 0 means "none" or "the package's", so no number may be below it.
void check_options(const InspectorOptions &options) {
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"budget_ms", options.budget_ms},
                   {"threshold", options.threshold},
                   {"pixel_mm", options.pixel_mm},
                   {"line_mm", options.line_mm}};
    for (const auto &one : numbers) {
        if (!std::isfinite(one.value) || one.value < 0) {
            throw Error(std::string("options.") + one.name + " is " + std::to_string(one.value) +
                        "; give a finite number, 0 or more");
        }
    }
}

uint32_t read_tile(PyObject *host) {
    const Object tile(require_object(PyObject_GetAttrString(host, "tile")));
    return uint32_t(PyLong_AsUnsignedLong(tile.get()));
}

}  // namespace

// The inspecting thread: opens the engine, reports that it is ready, and stays in Python until the web has ended.
void Inspection::run(const std::string &package, const InspectorOptions &options, std::promise<void> ready) {
    std::string failure;
    {
        const WithGil gil;
        try {
            const Object host(open_host(package, options));
            ring.emplace(LineRingOptions{options.width, options.pixel_format, read_tile(host.get()), options.overlap,
                                         options.depth});
            ready.set_value();
            prn_ring_reference reference = {ring->handle().ring(), ring->handle().api()};
            const Object lent(require_object(PyCapsule_New(&reference, PRN_RING_REFERENCE, nullptr)));
            const Object self(require_object(PyCapsule_New(this, INSPECTION_CAPSULE, nullptr)));
            const Object defects(require_object(PyCFunction_New(&REPORT_DEFECT, self.get())));
            const Object errors(require_object(PyCFunction_New(&REPORT_ERROR, self.get())));
            const Object closes(require_object(PyCFunction_New(&IS_CLOSING, self.get())));
            const Object drifts(require_object(PyCFunction_New(&REPORT_DRIFT, self.get())));
            const Object done(require_object(PyObject_CallMethod(host.get(), "run", "OOOOO", lent.get(), defects.get(),
                                                                 errors.get(), closes.get(), drifts.get())));
        } catch (const Error &error) {
            if (!ring) {
                ready.set_exception(std::current_exception());
                return;
            }
            failure = error.what();
        }
    }
    if (!failure.empty()) {
        // Python has given up: lines that still come are counted all the same.
        try {
            call(on_error, "the inspection ended: " + failure);
        } catch (...) {  // NOLINT: a host whose error callback throws has been told all there is to tell
        }
        drop_all(PRN_DROPPED_ENGINE_ERROR);
    }
}

// Drops every strip until the web has ended.
void Inspection::drop_all(int32_t reason) {
    for (;;) {
        prn_strip strip = {};
        strip.struct_size = sizeof(strip);
        const RingHandle &handle = ring->handle();
        const prn_status status = handle.api()->pop(handle.ring(), 10'000'000, &strip);
        if (status == PRN_OK) {
            Strip(handle, strip).drop(reason);
        } else if (status == PRN_TOO_MANY_HELD) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        } else if (status == PRN_END) {
            return;
        }
    }
}

// No more lines are taken; waits for the inspecting thread.
void Inspection::end_web() {
    if (inspecting.get_id() == std::this_thread::get_id()) {
        throw Error("a callback cannot finish or destroy the inspector that calls it");
    }
    const WithoutGil without_gil;
    const RingHandle &handle = ring->handle();
    while (handle.api()->finish(handle.ring()) == PRN_BUSY) {
        std::this_thread::yield();
    }
    if (inspecting.joinable()) {
        inspecting.join();
    }
}

Inspector::Inspector(const std::string &package, const InspectorOptions &options)
    : inspection_(std::make_unique<Inspection>()) {
    check_options(options);
    start_python(options.python);
    const WithoutGil without_gil;
    std::promise<void> ready;
    std::future<void> opened = ready.get_future();
    inspection_->inspecting = std::thread(&Inspection::run, inspection_.get(), package, options, std::move(ready));
    try {
        opened.get();
    } catch (...) {
        inspection_->inspecting.join();
        throw;
    }
}

Inspector::~Inspector() {
    inspection_->closing = true;
    inspection_->end_web();
}

void Inspector::on_defect(std::function<void(const Defect &)> callback) {
    inspection_->set(inspection_->on_defect, std::move(callback));
}

void Inspector::on_error(std::function<void(const std::string &)> callback) {
    inspection_->set(inspection_->on_error, std::move(callback));
}

void Inspector::on_drift(std::function<void(const Drift &)> callback) {
    std::unique_lock<std::mutex> lock(inspection_->drift_mutex);
    inspection_->on_drift = callback;
    if (!callback || !inspection_->drift_waits) {
        return;
    }
    inspection_->drift_waits = false;
    const Drift drift = inspection_->drift;
    lock.unlock();
    callback(drift);
}

Drift Inspector::drift() const {
    const std::lock_guard<std::mutex> lock(inspection_->drift_mutex);
    return inspection_->drift;
}

void Inspector::push(const Block &block) {
    inspection_->ring->push(block.rows, block.lines, block.pitch, block.first_line, block.timestamp_ns);
}

void Inspector::push_missing(uint64_t lines, int32_t reason) {
    inspection_->ring->push_missing(lines, reason);
}

void Inspector::finish() {
    inspection_->end_web();
}

prn_ledger Inspector::ledger() const {
    return inspection_->ring->ledger();
}

}  // namespace prn
