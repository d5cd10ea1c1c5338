// A C++ camera application with prn_fast inside. The "camera" is a file of raw Mono8 lines, played in blocks.
//
//     cpp_camera PACKAGE LINES_FILE WIDTH [ENGINE]
//
// Prints one JSON line a defect, then one with the ledger. Exit status: 0 if every line was inspected, else 1.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <vector>

#include <prn_fast/inspector.hpp>

namespace {

constexpr uint64_t BLOCK_LINES = 100;

void print(const prn::Defect &defect) {
    std::printf(
        "{\"first_line\": %llu, \"left\": %llu, \"lines\": %llu, \"width\": %llu, \"area\": %llu, \"peak\": %.6f, "
        "\"severity\": \"%s\"}\n",
        (unsigned long long)defect.first_line, (unsigned long long)defect.left, (unsigned long long)defect.lines,
        (unsigned long long)defect.width, (unsigned long long)defect.area, defect.peak, defect.severity.c_str());
}

int inspect(const char *package, const char *lines_file, uint32_t width, const char *engine) {
    prn::InspectorOptions options;
    options.width = width;
    options.engine = engine;
    options.depth = 64;  // a file arrives faster than any camera
    prn::Inspector inspector(package, options);
    inspector.on_defect(print);
    inspector.on_error([](const std::string &text) { std::cerr << text << '\n'; });

    // A camera application does this in its grab callback: push copies the lines and returns at once.
    std::ifstream camera(lines_file, std::ios::binary);
    std::vector<char> block(BLOCK_LINES * width);
    while (camera.read(block.data(), std::streamsize(block.size())), camera.gcount() > 0) {
        inspector.push({block.data(), uint64_t(camera.gcount()) / width});
    }
    inspector.finish();

    const prn_ledger ledger = inspector.ledger();
    std::printf("{\"lines\": %llu, \"inspected\": %llu}\n", (unsigned long long)ledger.lines,
                (unsigned long long)ledger.inspected);
    return ledger.lines > 0 && ledger.inspected == ledger.lines ? 0 : 1;
}

}  // namespace

int main(int count, char **arguments) {
    if (count < 4) {
        std::cerr << "usage: cpp_camera PACKAGE LINES_FILE WIDTH [ENGINE]\n";
        return 2;
    }
    try {
        return inspect(arguments[1], arguments[2], uint32_t(std::atoi(arguments[3])), count > 4 ? arguments[4] : "");
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 2;
    }
}
