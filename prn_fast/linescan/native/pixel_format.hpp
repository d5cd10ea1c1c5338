// Camera bytes to 8-bit pixels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace prn::core {

// How one PFNC format lies in memory, and how a row of it becomes 8-bit pixels (the upper 8 bits of each value).
struct PixelFormat {
    uint32_t code;
    uint32_t channels;
    // A row is a whole number of groups of `group_pixels` pixels in `group_bytes` bytes.
    uint32_t group_pixels;
    uint32_t group_bytes;
    void (*to_8_bit)(const uint8_t *row, uint8_t *pixels, size_t width);

    bool fits(uint32_t width) const { return width % group_pixels == 0; }
    size_t row_bytes(uint32_t width) const { return size_t(width) / group_pixels * group_bytes; }
};

// nullptr for a code that is not supported.
const PixelFormat *find_pixel_format(uint32_t code);

}  // namespace prn::core
