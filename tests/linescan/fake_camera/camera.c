/* A GigE Vision line camera on loopback: Aravis' fake camera, playing a strip round and round.
 *
 * camera DESCRIPTION.xml STRIP.raw LINES_IN_STRIP FIRST_LINE LINES LOST_RATIO SHORT_EVERY SHORT_LINES
 *
 * Line n shows row n modulo LINES_IN_STRIP of the strip; its first eight bytes hold n, little-endian. After LINES lines
 * (0: never) the camera stops sending. It prints "ready", and, when it was sent what there is to send, "sent N".
 * Every SHORT_EVERY-th block (0: none) ends after SHORT_LINES lines, as a frame trigger ends it: the leader has announced
 * a whole block, the trailer comes early, and the lines that lack go by unseen.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <arv.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SENSOR_WIDTH 16384

typedef struct {
    ArvFakeCamera *camera;
    const guint8 *strip;
    guint64 strip_lines, line, end, blocks, short_every, short_lines;
} Web;

/* Of the block that is being sent, where it ends early: bytes that are still to be sent, and packets that were. */
static gboolean cutting;
static gsize left;
static guint32 packets;

/* The fake camera sends whole blocks only; this stands between it and the socket. */
gssize g_socket_send_to(GSocket *socket, GSocketAddress *address, const gchar *buffer, gsize size,
                        GCancellable *cancellable, GError **error) {
    static gssize (*send_to)(GSocket *, GSocketAddress *, const gchar *, gsize, GCancellable *, GError **);
    enum { HEADER = 8, TRAILER = 2, PAYLOAD = 3 };
    gssize whole = size;
    gchar changed[HEADER + 64];
    if (!send_to)
        *(void **)&send_to = dlsym(RTLD_NEXT, "g_socket_send_to");
    if (cutting && buffer[4] == PAYLOAD) {
        if (!left)
            return whole;
        size = MIN(size, HEADER + left);
        left -= size - HEADER;
        packets++;
    } else if (cutting && buffer[4] == TRAILER && size <= sizeof changed) {
        guint32 infos = htonl((guint32)TRAILER << 24 | (packets + 1));
        memcpy(changed, buffer, size);
        memcpy(changed + 4, &infos, sizeof infos);
        buffer = changed;
        cutting = FALSE;
    }
    return send_to(socket, address, buffer, size, cancellable, error) < 0 ? -1 : whole;
}

static void fill(ArvBuffer *buffer, void *data, guint32 exposure, guint32 gain, ArvPixelFormat format) {
    Web *web = data;
    size_t size;
    guint8 *row = (guint8 *)arv_buffer_get_image_data(buffer, &size);
    gsize row_bytes = (gsize)arv_buffer_get_image_width(buffer) * ARV_PIXEL_FORMAT_BIT_PER_PIXEL(format) / 8;
    (void)exposure, (void)gain;
    for (int rows = arv_buffer_get_image_height(buffer); rows > 0; rows--, row += row_bytes, web->line++) {
        guint64 number = GUINT64_TO_LE(web->line);
        memcpy(row, web->strip + (web->line % web->strip_lines) * row_bytes, row_bytes);
        memcpy(row, &number, sizeof number);
    }
    web->blocks++;
    if (web->short_every && web->blocks % web->short_every == 0) {
        cutting = TRUE;
        left = web->short_lines * row_bytes;
        packets = 0;
    }
    if (web->end && web->line >= web->end)
        arv_fake_camera_write_register(web->camera, ARV_FAKE_CAMERA_REGISTER_ACQUISITION, 0);
}

int main(int count, char **arguments) {
    Web web = {0};
    gchar *strip;
    ArvGvFakeCamera *camera;
    if (count != 9 || !g_file_get_contents(arguments[2], &strip, NULL, NULL))
        return 2;
    web.strip = (const guint8 *)strip;
    web.strip_lines = g_ascii_strtoull(arguments[3], NULL, 10);
    web.line = g_ascii_strtoull(arguments[4], NULL, 10);
    guint64 lines = g_ascii_strtoull(arguments[5], NULL, 10);
    web.end = lines ? web.line + lines : 0;
    web.short_every = g_ascii_strtoull(arguments[7], NULL, 10);
    web.short_lines = g_ascii_strtoull(arguments[8], NULL, 10);

    camera = arv_gv_fake_camera_new_full("127.0.0.1", "LINE1", arguments[1]);
    if (!arv_gv_fake_camera_is_running(camera))
        return 1;
    g_object_set(camera, "gvsp-lost-ratio", g_ascii_strtod(arguments[6], NULL), NULL);
    web.camera = arv_gv_fake_camera_get_fake_camera(camera);
    arv_fake_camera_write_register(web.camera, ARV_FAKE_CAMERA_REGISTER_SENSOR_WIDTH, SENSOR_WIDTH);
    arv_fake_camera_set_fill_pattern(web.camera, fill, &web);
    printf("ready\n");
    fflush(stdout);
    while (!web.end || web.line < web.end)
        g_usleep(10000);
    g_usleep(200000); /* the last block is still being sent */
    printf("sent %" G_GUINT64_FORMAT "\n", lines);
    fflush(stdout);
    for (;;)
        g_usleep(1000000);
}
