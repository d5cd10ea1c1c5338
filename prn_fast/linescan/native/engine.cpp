// The C interface to engines: calls `prn_fast.linescan.embedding.EngineHost`, and lets no exception through.
#include "embedded_python.hpp"

#include "prn_fast/engine.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>

using prn::python::Object;
using prn::python::require_object;
using prn::python::start_python;
using prn::python::WithGil;

struct prn_engine {
    PyObject *host = nullptr;
    prn_engine_info info = {};
};

namespace {

// A newer caller's structure may be longer, but no longer than this: beyond is memory that nobody set.
constexpr size_t MAX_SIZE = 4096;

// The first version of these structures is the only one so far.
template <typename Struct>
bool is_sized(const Struct *value) {
    return value != nullptr && value->struct_size >= sizeof(Struct) && value->struct_size <= MAX_SIZE;
}

// Runs what may throw; its error becomes the message.
template <typename Work>
prn_status guarded(char *message, size_t message_size, const Work &work) {
    std::string text;
    try {
        work();
        return PRN_OK;
    } catch (const std::bad_alloc &) {
        return PRN_NO_MEMORY;
    } catch (const std::exception &error) {
        text = error.what();
    } catch (...) {
        text = "unknown error";
    }
    if (message != nullptr && message_size > 0) {
        const size_t length = std::min(text.size(), message_size - 1);
        std::memcpy(message, text.data(), length);
        message[length] = '\0';
    }
    return PRN_ENGINE_FAILED;
}

uint32_t read_whole(PyObject *object, const char *name) {
    const Object value(require_object(PyObject_GetAttrString(object, name)));
    return uint32_t(PyLong_AsUnsignedLong(value.get()));
}

double read_number(PyObject *object, const char *name) {
    const Object value(require_object(PyObject_GetAttrString(object, name)));
    return PyFloat_AsDouble(value.get());
}

// Memory as Python sees it, or None for a result that is not wanted.
PyObject *view(void *memory, size_t bytes, int access) {
    if (memory == nullptr) {
        Py_RETURN_NONE;
    }
    return require_object(PyMemoryView_FromMemory(static_cast<char *>(memory), Py_ssize_t(bytes), access));
}

void open(const char *package, const prn_engine_options &options, prn_engine &engine) {
    start_python(options.python == nullptr ? "" : options.python);
    const WithGil gil;
    const Object module(require_object(PyImport_ImportModule("prn_fast.linescan.embedding")));
    const Object host(
        require_object(PyObject_CallMethod(module.get(), "EngineHost", "szI", package, options.engine, options.batch)));
    engine.info.image_size = read_whole(host.get(), "image_size");
    engine.info.image_channels = read_whole(host.get(), "image_channels");
    engine.info.threshold = read_number(host.get(), "threshold");
    engine.info.pixel_threshold = read_number(host.get(), "pixel_threshold");
    Py_INCREF(host.get());
    engine.host = host.get();
}

void infer(prn_engine &engine, const uint8_t *images, uint64_t count, const prn_detections &out) {
    const WithGil gil;
    const size_t pixels = size_t(engine.info.image_size) * engine.info.image_size;
    const Object pictures(view(const_cast<uint8_t *>(images), count * pixels * engine.info.image_channels, PyBUF_READ));
    const Object defective(view(out.defective, count, PyBUF_WRITE));
    const Object scores(view(out.scores, count * sizeof(float), PyBUF_WRITE));
    const Object raw_scores(view(out.raw_scores, count * sizeof(float), PyBUF_WRITE));
    const Object maps(view(out.maps, count * pixels * sizeof(float), PyBUF_WRITE));
    const Object done(require_object(PyObject_CallMethod(engine.host, "infer", "OOOOO", pictures.get(), defective.get(),
                                                         scores.get(), raw_scores.get(), maps.get())));
}

}  // namespace

prn_status prn_engine_open(const char *package, const prn_engine_options *options, prn_engine **engine, char *message,
                           size_t message_size) {
    if (engine == nullptr) {
        return PRN_BAD_ARGUMENT;
    }
    *engine = nullptr;
    if (package == nullptr || !is_sized(options)) {
        return PRN_BAD_ARGUMENT;
    }
    return guarded(message, message_size, [&] {
        auto opened = std::make_unique<prn_engine>();
        open(package, *options, *opened);
        *engine = opened.release();
    });
}

prn_status prn_engine_describe(const prn_engine *engine, prn_engine_info *info) {
    if (engine == nullptr || !is_sized(info)) {
        return PRN_BAD_ARGUMENT;
    }
    const uint32_t size = info->struct_size;
    *info = engine->info;
    info->struct_size = size;
    return PRN_OK;
}

prn_status prn_engine_infer(prn_engine *engine, const uint8_t *images, uint64_t count, const prn_detections *detections,
                            char *message, size_t message_size) {
    if (engine == nullptr || images == nullptr || count == 0 || !is_sized(detections)) {
        return PRN_BAD_ARGUMENT;
    }
    return guarded(message, message_size, [&] { infer(*engine, images, count, *detections); });
}

void prn_engine_close(prn_engine *engine) {
    if (engine == nullptr) {
        return;
    }
    {
        const WithGil gil;
        // An engine that cannot be closed is freed all the same.
        const Object done(PyObject_CallMethod(engine->host, "close", nullptr));
        PyErr_Clear();
        Py_DECREF(engine->host);
    }
    delete engine;
}
