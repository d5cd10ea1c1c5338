// Verdicts on raw images through the C++ interface: verdicts PACKAGE ENGINE IMAGES COUNT PYTHON; a line an image.
#include <prn_fast/engine.hpp>

#include <cstdio>
#include <fstream>
#include <iterator>

int main(int argc, char **argv) {
    if (argc != 6) {
        return 1;
    }
    try {
        const prn::Engine engine(argv[1], "warp", 0, argv[5]);
        return 2;
    } catch (const prn::Error &error) {
        std::fprintf(stderr, "%s\n", error.what());
    }
    std::ifstream file(argv[3], std::ios::binary);
    const std::vector<char> images((std::istreambuf_iterator<char>(file)), {});
    const size_t count = std::stoul(argv[4]);
    const prn::Engine engine(argv[1], argv[2], 0, argv[5]);
    const prn::Detections found = engine.infer(reinterpret_cast<const uint8_t *>(images.data()), count);
    if (found.maps.size() != count * engine.image_size() * engine.image_size()) {
        return 3;
    }
    for (size_t i = 0; i < count; ++i) {
        std::printf("%d %.9g %.9g %.17g\n", found.defective[i], found.scores[i], found.raw_scores[i],
                    engine.threshold());
    }
}
