#include "pixel_format.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "prn_fast/linescan.h"

namespace prn::core {
namespace {

template <int CHANNELS>
void copy(const uint8_t *row, uint8_t *pixels, size_t width) {
    std::memcpy(pixels, row, width * CHANNELS);
}

void bgr_to_rgb(const uint8_t *row, uint8_t *pixels, size_t width) {
    for (size_t i = 0; i < 3 * width; i += 3) {
        pixels[i] = row[i + 2];
        pixels[i + 1] = row[i + 1];
        pixels[i + 2] = row[i];
    }
}

// Little-endian 16-bit words of BITS used bits. A word above the format's range stands for the brightest pixel.
template <int BITS>
void from_words(const uint8_t *row, uint8_t *pixels, size_t width) {
    for (size_t i = 0; i < width; ++i) {
        const unsigned word = row[2 * i] | unsigned(row[2 * i + 1]) << 8;
        pixels[i] = uint8_t(std::min(word >> (BITS - 8), 255u));
    }
}

// GigE Vision's own packing, 10 and 12 bits alike: upper 8 bits, the low bits of both, upper 8 bits.
void from_gige_packed(const uint8_t *row, uint8_t *pixels, size_t width) {
    for (size_t i = 0; i < width; i += 2, row += 3) {
        pixels[i] = row[0];
        pixels[i + 1] = row[2];
    }
}

// PFNC "p": a bit stream, lowest bit first; four pixels in five bytes.
void from_10p(const uint8_t *row, uint8_t *pixels, size_t width) {
    for (size_t i = 0; i < width; i += 4, row += 5) {
        pixels[i] = uint8_t(row[0] >> 2 | row[1] << 6);
        pixels[i + 1] = uint8_t(row[1] >> 4 | row[2] << 4);
        pixels[i + 2] = uint8_t(row[2] >> 6 | row[3] << 2);
        pixels[i + 3] = row[4];
    }
}

// Two pixels in three bytes, lowest bit first.
void from_12p(const uint8_t *row, uint8_t *pixels, size_t width) {
    for (size_t i = 0; i < width; i += 2, row += 3) {
        pixels[i] = uint8_t(row[0] >> 4 | row[1] << 4);
        pixels[i + 1] = row[2];
    }
}

constexpr PixelFormat FORMATS[] = {
    {PRN_MONO8, 1, 1, 1, copy<1>},
    {PRN_BAYERGR8, 1, 1, 1, copy<1>},
    {PRN_BAYERRG8, 1, 1, 1, copy<1>},
    {PRN_BAYERGB8, 1, 1, 1, copy<1>},
    {PRN_BAYERBG8, 1, 1, 1, copy<1>},
    {PRN_MONO10, 1, 1, 2, from_words<10>},
    {PRN_MONO12, 1, 1, 2, from_words<12>},
    {PRN_MONO16, 1, 1, 2, from_words<16>},
    {PRN_MONO10PACKED, 1, 2, 3, from_gige_packed},
    {PRN_MONO12PACKED, 1, 2, 3, from_gige_packed},
    {PRN_MONO10P, 1, 4, 5, from_10p},
    {PRN_MONO12P, 1, 2, 3, from_12p},
    {PRN_RGB8, 3, 1, 3, copy<3>},
    {PRN_BGR8, 3, 1, 3, bgr_to_rgb},
};

}  // namespace

const PixelFormat *find_pixel_format(uint32_t code) {
    const auto *found = std::find_if(std::begin(FORMATS), std::end(FORMATS),
                                     [code](const PixelFormat &one) { return one.code == code; });
    return found == std::end(FORMATS) ? nullptr : found;
}

}  // namespace prn::core
