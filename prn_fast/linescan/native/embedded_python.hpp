// The Python interpreter inside a C++ process: started once, entered with its lock, its errors as exceptions.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "prn_fast/linescan.hpp"

#include <mutex>
#include <string>

#ifndef PRN_FAST_PYTHON
#define PRN_FAST_PYTHON ""
#endif

namespace prn::python {

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
inline void start_python(std::string executable) {
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
inline std::string take_exception() {
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

inline PyObject *require_object(PyObject *object) {
    if (object == nullptr) {
        throw Error(take_exception());
    }
    return object;
}

}  // namespace prn::python
