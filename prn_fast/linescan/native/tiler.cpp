// Where tiles lie along an axis, and cutting them out of a strip.
#include <algorithm>
#include <cstring>

#include "prn_fast/linescan.h"

namespace {
// More than any strip has; sizes of tiles cannot overflow with it.
constexpr uint32_t MAX_CHANNELS = 16;
}  // namespace

uint64_t prn_tile_count(uint64_t length, uint64_t tile, uint64_t overlap) {
    if (tile == 0 || length < tile || overlap >= tile) {
        return 0;
    }
    const uint64_t stride = tile - overlap, beyond_first = length - tile;
    return beyond_first / stride + (beyond_first % stride != 0) + 1;
}

uint64_t prn_tile_start(uint64_t length, uint64_t tile, uint64_t overlap, uint64_t k) {
    const uint64_t count = prn_tile_count(length, tile, overlap);
    if (count == 0) {
        return 0;
    }
    return k >= count - 1 ? length - tile : k * (tile - overlap);
}

prn_status prn_cut_tiles(const uint8_t *pixels, size_t pitch, uint32_t width, uint32_t channels, uint32_t tile,
                         uint32_t overlap, uint8_t *tiles) {
    const uint64_t count = prn_tile_count(width, tile, overlap);
    if (pixels == nullptr || tiles == nullptr || channels == 0 || channels > MAX_CHANNELS || count == 0 ||
        pitch < size_t(width) * channels || pitch > SIZE_MAX / tile) {
        return PRN_BAD_ARGUMENT;
    }
    const size_t row_bytes = size_t(tile) * channels, tile_bytes = row_bytes * tile;
    for (uint64_t k = 0; k < count; ++k) {
        const uint8_t *source = pixels + prn_tile_start(width, tile, overlap, k) * channels;
        uint8_t *target = tiles + k * tile_bytes;
        for (uint32_t row = 0; row < tile; ++row) {
            std::memcpy(target + row * row_bytes, source + row * pitch, row_bytes);
        }
    }
    return PRN_OK;
}
