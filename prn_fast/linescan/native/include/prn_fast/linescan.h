/* Line ring and tiler: the C interface; linescan.hpp wraps it for C++. Threads and lifetimes: docs/embedding.md.
 *
 * Line: one row of the web, numbered from 0. Strip: `tile` lines over the full width; strip r starts at line r *
 * stride, stride = tile - overlap; the last one, after prn_ring_finish, is flush with the web's end. A strip owns the
 * lines that the strip before it does not hold; in the ledger it answers for these.
 *
 * Every structure that a caller passes begins with `struct_size`, set by the caller to sizeof: a newer library reads
 * and writes no more than an older caller knows. A size that no version had is PRN_BAD_ARGUMENT.
 */
#ifndef PRN_FAST_LINESCAN_H
#define PRN_FAST_LINESCAN_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) || !defined(PRN_FAST_SHARED)
#define PRN_EXPORT
#else
#define PRN_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when a function or structure changes in a way that breaks older callers. */
#define PRN_ABI_VERSION 1u

typedef int32_t prn_status;
enum {
    PRN_OK = 0,
    PRN_EMPTY = 1,         /* no strip came in time */
    PRN_END = 2,           /* the web has ended and every strip was taken */
    PRN_BAD_ARGUMENT = -1, /* a null pointer, a wrong struct_size, an unknown reason, an impossible pitch, a strip
                              that this ring did not lend */
    PRN_BAD_OPTIONS = -2,  /* width, format, tile, overlap or depth cannot work */
    PRN_NO_MEMORY = -3,
    PRN_STALE_LINE = -4,    /* first_line is below the next line: these lines came before */
    PRN_FINISHED = -5,      /* lines after prn_ring_finish */
    PRN_BUSY = -6,          /* two threads push at once */
    PRN_TOO_MANY_HELD = -7, /* `depth` strips are held: give one back first */
    PRN_SETTLED = -8        /* the strip has its verdict, or was given back */
};

/* PFNC codes, as cameras and their libraries report them. Bayer mosaics pass as one channel. */
enum {
    PRN_MONO8 = 0x01080001,
    PRN_MONO10 = 0x01100003,
    PRN_MONO10P = 0x010A0046,
    PRN_MONO10PACKED = 0x010C0004,
    PRN_MONO12 = 0x01100005,
    PRN_MONO12P = 0x010C0047,
    PRN_MONO12PACKED = 0x010C0006,
    PRN_MONO16 = 0x01100007,
    PRN_BAYERGR8 = 0x01080008,
    PRN_BAYERRG8 = 0x01080009,
    PRN_BAYERGB8 = 0x0108000A,
    PRN_BAYERBG8 = 0x0108000B,
    PRN_RGB8 = 0x02180014,
    PRN_BGR8 = 0x02180015
};

/* Why a line never arrived. */
enum {
    PRN_MISSING_GAP = 0,         /* the line counter jumped */
    PRN_MISSING_INCOMPLETE = 1,  /* a block with lost packets, or one that ended early */
    PRN_MISSING_FAILED = 2,      /* the camera reported a failed buffer */
    PRN_MISSING_CAMERA_LOST = 3, /* the camera was gone */
    PRN_MISSING_REASONS = 4
};

/* The verdict on a strip: why the lines it owns were not inspected, or PRN_INSPECTED. */
enum {
    PRN_DROPPED_QUEUE_FULL = 0,   /* the oldest waiting strip gave way to new lines; counted by the ring itself */
    PRN_DROPPED_OVERLOAD = 1,     /* skipped to keep the latency budget */
    PRN_DROPPED_ENGINE_ERROR = 2, /* the engine failed */
    PRN_DROPPED_ABANDONED = 3,    /* given back without a verdict; counted by the ring itself */
    PRN_DROPPED_CLOSED = 4,       /* still waiting when the inspection was closed */
    PRN_DROPPED_REASONS = 5,
    PRN_INSPECTED = 100
};

/* As first_line: the lines follow directly on those before. */
#define PRN_FOLLOWS UINT64_MAX

typedef struct prn_ring prn_ring;

typedef struct prn_ring_options {
    uint32_t struct_size;
    uint32_t pixel_format; /* PFNC code */
    uint32_t width;        /* pixels in a line */
    uint32_t tile;         /* side of the tiles, lines and pixels; 1..width */
    uint32_t overlap;      /* 0..tile / 2 */
    uint32_t depth;        /* strips that may be held at once, 1..1024; memory: (depth + 3) * tile * width * channels */
} prn_ring_options;

typedef struct prn_ring_info {
    uint32_t struct_size;
    uint32_t pixel_format;
    uint32_t width;
    uint32_t channels; /* of the strips: 1, or 3 in RGB order */
    uint32_t tile;
    uint32_t overlap;
    uint32_t depth;
    uint32_t finished;  /* 1 after prn_ring_finish, once no strip waits */
    uint64_t row_bytes; /* of an incoming row without padding */
} prn_ring_info;

typedef struct prn_strip {
    uint32_t struct_size;
    uint32_t slot; /* the ring's own */
    uint64_t index;
    uint64_t first_line;
    uint64_t owned_begin; /* the lines it answers for: owned_begin <= line < owned_end */
    uint64_t owned_end;
    uint64_t arrival_ns;    /* of its last line */
    const uint8_t *pixels;  /* (tile, width, channels), contiguous; valid until given back */
    const uint8_t *missing; /* (tile,), 1 where the line never arrived; valid until given back */
} prn_strip;

/* lines = inspected + all of missing + all of dropped + lines in strips that are being filled, wait or are held. */
typedef struct prn_ledger {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t lines; /* on the wire so far: the number of the next line */
    uint64_t inspected;
    uint64_t missing[PRN_MISSING_REASONS];
    uint64_t dropped[PRN_DROPPED_REASONS];
} prn_ledger;

/* The ring's functions as a table, so that code compiled elsewhere uses a ring with the library that made it. */
typedef struct prn_ring_api {
    uint32_t struct_size;
    uint32_t abi_version;
    prn_status (*create)(const prn_ring_options *options, prn_ring **ring);
    void (*retain)(prn_ring *ring);
    void (*release)(prn_ring *ring);
    prn_status (*describe)(const prn_ring *ring, prn_ring_info *info);
    prn_status (*push)(prn_ring *ring, const void *rows, uint64_t lines, size_t pitch, uint64_t first_line,
                       uint64_t timestamp_ns);
    prn_status (*push_missing)(prn_ring *ring, uint64_t lines, int32_t reason, uint64_t timestamp_ns);
    prn_status (*finish)(prn_ring *ring);
    prn_status (*pop)(prn_ring *ring, uint64_t timeout_ns, prn_strip *strip);
    prn_status (*settle)(prn_ring *ring, const prn_strip *strip, int32_t verdict);
    prn_status (*give_back)(prn_ring *ring, const prn_strip *strip);
    prn_status (*read_ledger)(const prn_ring *ring, prn_ledger *ledger);
} prn_ring_api;

/* A ring handed to code compiled elsewhere, such as the Python binding (in a capsule of this name). */
#define PRN_RING_REFERENCE "prn_fast.ring_reference"
typedef struct prn_ring_reference {
    prn_ring *ring;
    const prn_ring_api *api;
} prn_ring_reference;

PRN_EXPORT uint32_t prn_abi_version(void);
PRN_EXPORT const prn_ring_api *prn_get_ring_api(void);
/* One English sentence. */
PRN_EXPORT const char *prn_status_text(prn_status status);

/* A ring is counted: create gives one reference, retain adds one, release takes one; the last one frees it. */
PRN_EXPORT prn_status prn_ring_create(const prn_ring_options *options, prn_ring **ring);
PRN_EXPORT void prn_ring_retain(prn_ring *ring);
PRN_EXPORT void prn_ring_release(prn_ring *ring);
PRN_EXPORT prn_status prn_ring_describe(const prn_ring *ring, prn_ring_info *info);

/* Grab side: one thread at a time. Never waits, allocates or locks. Copies the rows; `pitch` bytes from row to row, 0
 * for rows without padding. Lines between the next line and first_line count as missing (PRN_MISSING_GAP).
 * timestamp_ns: arrival on the monotonic clock, 0 for now. After an error nothing was taken. */
PRN_EXPORT prn_status prn_ring_push(prn_ring *ring, const void *rows, uint64_t lines, size_t pitch, uint64_t first_line,
                                    uint64_t timestamp_ns);
PRN_EXPORT prn_status prn_ring_push_missing(prn_ring *ring, uint64_t lines, int32_t reason, uint64_t timestamp_ns);
/* End of the web: the lines since the last strip come out as a last strip, flush with the end. */
PRN_EXPORT prn_status prn_ring_finish(prn_ring *ring);

/* Reading side: any thread. The strip is lent until it is given back; hold a reference to the ring until then. Any
 * timeout is fine; UINT64_MAX waits until the web ends. Of several threads that settle or give back one strip, one gets
 * PRN_OK, the others PRN_SETTLED. */
PRN_EXPORT prn_status prn_ring_pop(prn_ring *ring, uint64_t timeout_ns, prn_strip *strip);
/* Count the owned lines once: PRN_INSPECTED or one of PRN_DROPPED_*. */
PRN_EXPORT prn_status prn_ring_settle(prn_ring *ring, const prn_strip *strip, int32_t verdict);
/* Give the memory back; without a verdict the owned lines count as PRN_DROPPED_ABANDONED. */
PRN_EXPORT prn_status prn_ring_give_back(prn_ring *ring, const prn_strip *strip);

/* Any thread. */
PRN_EXPORT prn_status prn_ring_read_ledger(const prn_ring *ring, prn_ledger *ledger);

/* Number of tiles along an axis of `length` pixels, 0 where length < tile or overlap >= tile; and the start of the
 * k-th: k * stride, the last flush with the end, as is every k beyond; 0 where there are no tiles. */
PRN_EXPORT uint64_t prn_tile_count(uint64_t length, uint64_t tile, uint64_t overlap);
PRN_EXPORT uint64_t prn_tile_start(uint64_t length, uint64_t tile, uint64_t overlap, uint64_t k);
/* Copy the tiles of a strip (tile, width, channels) with `pitch` bytes from row to row to (count, tile, tile,
 * channels). */
PRN_EXPORT prn_status prn_cut_tiles(const uint8_t *pixels, size_t pitch, uint32_t width, uint32_t channels,
                                    uint32_t tile, uint32_t overlap, uint8_t *tiles);

#ifdef __cplusplus
}
#endif
#endif
