/* Whole images in, verdicts out: the C interface to a package's engine; engine.hpp wraps it for C++.
 *
 * The engine runs in a Python interpreter inside this process; the first one opened starts it, unless the process
 * already has one. Threads may share an engine: one inference runs at a time, the others wait. `struct_size` is as in
 * linescan.h.
 */
#ifndef PRN_FAST_ENGINE_H
#define PRN_FAST_ENGINE_H

#include "linescan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A further status: opening or inferring failed, and the message says why. */
#define PRN_ENGINE_FAILED (-9)

typedef struct prn_engine prn_engine;

typedef struct prn_engine_options {
    uint32_t struct_size;
    uint32_t batch;     /* most images in one run; 0: the default */
    const char *engine; /* such as "openvino:int8"; NULL: the best that the package holds */
    const char *python; /* executable whose environment holds prn_fast; NULL: the one that CMake found */
} prn_engine_options;

typedef struct prn_engine_info {
    uint32_t struct_size;
    uint32_t image_size; /* side S of the images, pixels */
    uint32_t image_channels;
    uint32_t reserved;
    double threshold;       /* raw score at or above which an image is defective */
    double pixel_threshold; /* the same for a pixel of the map */
} prn_engine_info;

/* Where results of N images go; NULL for those not wanted. */
typedef struct prn_detections {
    uint32_t struct_size;
    uint32_t reserved;
    uint8_t *defective; /* (N,) 1 for a defective image, the verdict; else 0 */
    float *scores;      /* (N,) 0..1, 0.5 and above exactly where defective */
    float *raw_scores;  /* (N,) 0..1, the network's own */
    float *maps;        /* (N, S, S) 0..1, anomaly maps */
} prn_detections;

/* Opens an engine of a package. On failure *engine is NULL, and message, of `message_size` bytes, says why. */
PRN_EXPORT prn_status prn_engine_open(const char *package, const prn_engine_options *options, prn_engine **engine,
                                      char *message, size_t message_size);
PRN_EXPORT prn_status prn_engine_describe(const prn_engine *engine, prn_engine_info *info);
/* Inspects (count, S, S, C) uint8 images, contiguous. On failure the results are undefined. */
PRN_EXPORT prn_status prn_engine_infer(prn_engine *engine, const uint8_t *images, uint64_t count,
                                       const prn_detections *detections, char *message, size_t message_size);
/* Waits for an inference under way; NULL does nothing. No other call may use the engine afterwards. */
PRN_EXPORT void prn_engine_close(prn_engine *engine);

#ifdef __cplusplus
}
#endif

#endif
