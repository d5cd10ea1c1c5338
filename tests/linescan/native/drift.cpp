// What an inspection in a C++ program says of drift: drift PACKAGE LINES_FILE WIDTH OVERLAP WINDOW PYTHON; a line each
// time that it is told, and a last one for what it said last.
#include <prn_fast/inspector.hpp>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

namespace {

void print(const prn::Drift &drift) {
    std::printf("%s\t%s\t%llu\t%llu\n", drift.state.c_str(), drift.reason.c_str(), (unsigned long long)drift.tiles,
                (unsigned long long)drift.window);
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 7) {
        return 1;
    }
    std::ifstream file(argv[2], std::ios::binary);
    const std::vector<char> pixels((std::istreambuf_iterator<char>(file)), {});
    prn::InspectorOptions options;
    options.width = uint32_t(std::stoul(argv[3]));
    options.overlap = uint32_t(std::stoul(argv[4]));
    options.engine = "optimized";
    options.depth = 512;
    options.drift_window = 99;
    options.python = argv[6];
    try {
        const prn::Inspector refused(argv[1], options);
        return 2;
    } catch (const prn::Error &error) {
        std::fprintf(stderr, "%s\n", error.what());
    }
    options.drift_window = uint32_t(std::stoul(argv[5]));
    prn::Inspector inspector(argv[1], options);
    if (!inspector.drift().state.empty() && inspector.drift().state != "learning") {
        return 3;
    }
    inspector.on_error([](const std::string &text) { std::fprintf(stderr, "%s\n", text.c_str()); });
    inspector.on_drift(print);
    inspector.push({pixels.data(), pixels.size() / options.width});
    inspector.finish();
    print(inspector.drift());
    std::fprintf(stderr, "%s\n", inspector.drift().notes.c_str());
    return 0;
}
