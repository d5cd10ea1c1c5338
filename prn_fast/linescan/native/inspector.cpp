// Hosts the Python inspection: one thread that enters the interpreter once and stays in `prn_fast.linescan.embedding`.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "prn_fast/inspector.hpp"

#include <atomic>
#include <exception>
#include <future>
#include <mutex>
#include <thread>

#ifndef PRN_FAST_PYTHON
#define PRN_FAST_PYTHON ""
#endif

namespace prn {
namespace {

// Waiting for the inspecting thread while holding the interpreter's lock would wait for ever: that thread needs the
// lock.
class WithoutGil {
  public:
    WithoutGil() : state_(Py_IsInitialized() && PyGILState_Check() ? PyEval_SaveThread() : nullptr) {}
    ~WithoutGil() {
        if (state_ != nullptr) {
            PyEval_RestoreThread(state_);
        }
    }
    WithoutGil(const WithoutGil &) = delete;
    WithoutGil &operator=(const WithoutGil &) = delete;

  private:
    PyThreadState *const state_;
};

class WithGil {
  public:
    WithGil() : state_(PyGILState_Ensure()) {}
    ~WithGil() { PyGILState_Release(state_); }
    WithGil(const WithGil &) = delete;
    WithGil &operator=(const WithGil &) = delete;

  private:
    const PyGILState_STATE state_;
};

// Starts the interpreter unless there is one. It is never ended: extension modules such as numpy do not survive a
// restart.
void start_python(std::string executable) {
    static std::mutex mutex;
    const std::lock_guard<std::mutex> lock(mutex);
    if (Py_IsInitialized()) {
        return;
    }
    if (executable.empty()) {
        executable = PRN_FAST_PYTHON;
    }
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.install_signal_handlers = 0;
    config.parse_argv = 0;
    PyStatus status = PyStatus_Ok();
    if (!executable.empty()) {
        status = PyConfig_SetBytesString(&config, &config.program_name, executable.c_str());
    }
    if (!PyStatus_Exception(status)) {
        status = Py_InitializeFromConfig(&config);
    }
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status)) {
        throw Error("Python does not start with " + (executable.empty() ? "its defaults" : executable) + ": " +
                    (status.err_msg == nullptr ? "unknown reason" : status.err_msg));
    }
    PyEval_SaveThread();
}

// Owns a reference; made and destroyed with the interpreter's lock.
class Object {
  public:
    explicit Object(PyObject *owned) : object_(owned) {}
    ~Object() { Py_XDECREF(object_); }
    Object(const Object &) = delete;
    Object &operator=(const Object &) = delete;
    PyObject *get() const { return object_; }

  private:
    PyObject *const object_;
};

// The pending exception as one line, and clears it.
std::string take_exception() {
    PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    const Object owned_type(type), owned_value(value), owned_traceback(traceback);
    const Object text(value == nullptr ? nullptr : PyObject_Str(value));
    const char *utf8 = text.get() == nullptr ? nullptr : PyUnicode_AsUTF8(text.get());
    std::string line = type == nullptr ? "unknown error" : reinterpret_cast<PyTypeObject *>(type)->tp_name;
    if (utf8 != nullptr && *utf8 != '\0') {
        line += ": " + std::string(utf8);
    }
    PyErr_Clear();
    return line;
}

PyObject *require_object(PyObject *object) {
    if (object == nullptr) {
        throw Error(take_exception());
    }
    return object;
}

}  // namespace

namespace detail {

struct Inspection {
    std::optional<LineRing> ring;
    std::thread inspecting;

    void run(const std::string &package, const InspectorOptions &options, std::promise<void> &ready);
    void finish_ring();
    void drop_all(int32_t reason);
    void join();

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

PyMethodDef REPORT_DEFECT = {"report_defect", report_defect, METH_VARARGS, nullptr};
PyMethodDef REPORT_ERROR = {"report_error", report_error, METH_VARARGS, nullptr};

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
    const Object settings(require_object(Py_BuildValue(
        "{s:I,s:I,s:I,s:s,s:d,s:I,s:d,s:d,s:d}", "width", options.width, "pixel_format", options.pixel_format,
        "overlap", options.overlap, "engine", options.engine.c_str(), "threshold", options.threshold, "min_area",
        options.min_area, "pixel_mm", options.pixel_mm, "line_mm", options.line_mm, "budget_ms", options.budget_ms)));
    return require_object(PyObject_Call(type.get(), arguments.get(), settings.get()));
}

uint32_t read_tile(PyObject *host) {
    const Object tile(require_object(PyObject_GetAttrString(host, "tile")));
    return uint32_t(PyLong_AsUnsignedLong(tile.get()));
}

}  // namespace

// The inspecting thread: opens the engine, tells that it is ready, and stays in Python until the web has ended.
void Inspection::run(const std::string &package, const InspectorOptions &options, std::promise<void> &ready) {
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
            const Object done(
                require_object(PyObject_CallMethod(host.get(), "run", "OOO", lent.get(), defects.get(), errors.get())));
        } catch (const Error &error) {
            if (!ring) {
                ready.set_exception(std::current_exception());
                return;
            }
            failure = error.what();
        }
    }
    if (!failure.empty()) {
        // Python gave up for good: the lines that still come are counted all the same.
        try {
            call(on_error, "the inspection ended: " + failure);
        } catch (...) {  // NOLINT: a host whose error callback throws has been told all there is to tell
        }
        drop_all(PRN_DROPPED_ENGINE_ERROR);
    }
}

void Inspection::finish_ring() {
    const RingHandle &handle = ring->handle();
    while (handle.api()->finish(handle.ring()) == PRN_BUSY) {
        std::this_thread::yield();
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

void Inspection::join() {
    if (inspecting.get_id() == std::this_thread::get_id()) {
        throw Error("a callback cannot finish or destroy the inspector that calls it");
    }
    if (inspecting.joinable()) {
        inspecting.join();
    }
}

Inspector::Inspector(const std::string &package, const InspectorOptions &options)
    : inspection_(std::make_unique<Inspection>()) {
    start_python(options.python);
    const WithoutGil without_gil;
    std::promise<void> ready;
    std::future<void> opened = ready.get_future();
    inspection_->inspecting =
        std::thread([this, package, options, &ready] { inspection_->run(package, options, ready); });
    try {
        opened.get();
    } catch (...) {
        inspection_->join();
        throw;
    }
}

Inspector::~Inspector() {
    const WithoutGil without_gil;
    inspection_->finish_ring();
    inspection_->drop_all(PRN_DROPPED_CLOSED);
    inspection_->join();
}

void Inspector::on_defect(std::function<void(const Defect &)> callback) {
    inspection_->set(inspection_->on_defect, std::move(callback));
}

void Inspector::on_error(std::function<void(const std::string &)> callback) {
    inspection_->set(inspection_->on_error, std::move(callback));
}

void Inspector::push(const Block &block) {
    inspection_->ring->push(block.rows, block.lines, block.pitch, block.first_line, block.timestamp_ns);
}

void Inspector::push_missing(uint64_t lines, int32_t reason) {
    inspection_->ring->push_missing(lines, reason);
}

void Inspector::finish() {
    const WithoutGil without_gil;
    inspection_->finish_ring();
    inspection_->join();
}

prn_ledger Inspector::ledger() const {
    return inspection_->ring->ledger();
}

}  // namespace prn
