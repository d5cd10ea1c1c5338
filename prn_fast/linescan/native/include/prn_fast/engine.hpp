// Whole images in, verdicts out, in C++; for lines of a web see inspector.hpp.
//
//     prn::Engine engine("bottle.prn");
//     const prn::Detections found = engine.infer(images, count);  // (count, S, S, C) uint8
//     if (found.defective[0]) ...
#pragma once

#include <string>
#include <vector>

#include "engine.h"
#include "linescan.hpp"

namespace prn {

// What an engine found in N images.
struct Detections {
    std::vector<uint8_t> defective;  // (N,) the verdict, 0 or 1
    std::vector<float> scores;       // (N,) 0..1, 0.5 and above exactly where defective
    std::vector<float> raw_scores;   // (N,) 0..1, the network's own
    std::vector<float> maps;         // (N, S, S) 0..1, anomaly maps
};

class Engine {
  public:
    // engine: such as "openvino:int8"; empty: the best that the package holds. python: as in InspectorOptions.
    // prn::Error says what is wrong.
    explicit Engine(const std::string &package, const std::string &engine = "", uint32_t batch = 0,
                    const std::string &python = "") {
        const prn_engine_options options = {sizeof(prn_engine_options), batch,
                                            engine.empty() ? nullptr : engine.c_str(),
                                            python.empty() ? nullptr : python.c_str()};
        char message[1024] = "";
        check(prn_engine_open(package.c_str(), &options, &engine_, message, sizeof(message)), message);
        info_.struct_size = sizeof(info_);
        if (prn_engine_describe(engine_, &info_) != PRN_OK) {
            prn_engine_close(engine_);
            throw Error("the engine does not describe itself");
        }
    }
    ~Engine() { prn_engine_close(engine_); }
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;

    // Inspects (count, S, S, C) images, contiguous; any thread may call it.
    Detections infer(const uint8_t *images, size_t count) const {
        const size_t pixels = size_t(info_.image_size) * info_.image_size;
        Detections found = {std::vector<uint8_t>(count), std::vector<float>(count), std::vector<float>(count),
                            std::vector<float>(count * pixels)};
        const prn_detections out = {sizeof(prn_detections),  0,
                                    found.defective.data(),  found.scores.data(),
                                    found.raw_scores.data(), found.maps.data()};
        char message[1024] = "";
        check(prn_engine_infer(engine_, images, count, &out, message, sizeof(message)), message);
        return found;
    }

    uint32_t image_size() const { return info_.image_size; }
    uint32_t image_channels() const { return info_.image_channels; }
    double threshold() const { return info_.threshold; }              // of raw scores
    double pixel_threshold() const { return info_.pixel_threshold; }  // of the maps

  private:
    static void check(prn_status status, const char *message) {
        if (status != PRN_OK) {
            throw Error(*message != '\0' ? message : "wrong argument (" + std::to_string(status) + ")");
        }
    }

    prn_engine *engine_ = nullptr;
    prn_engine_info info_ = {};
};

}  // namespace prn
