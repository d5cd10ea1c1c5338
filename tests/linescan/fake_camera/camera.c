/* A GigE Vision line camera on loopback: Aravis' fake camera, playing a strip round and round.
 *
 * camera DESCRIPTION.xml STRIP.raw LINES_IN_STRIP FIRST_LINE LINES LOST_RATIO
 *
 * Line n shows row n modulo LINES_IN_STRIP of the strip; its first eight bytes hold n, little-endian. After LINES lines
 * (0: never) the camera stops sending. It prints "ready", and, when it was sent what there is to send, "sent N".
 */
#include <arv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SENSOR_WIDTH 16384

typedef struct {
    ArvFakeCamera *camera;
    const guint8 *strip;
    guint64 strip_lines, line, end;
} Web;

static void fill(ArvBuffer *buffer, void *data, guint32 exposure, guint32 gain, ArvPixelFormat format) {
    Web *web = data;
    size_t size;
    guint8 *row = (guint8 *)arv_buffer_get_image_data(buffer, &size);
    gsize width = arv_buffer_get_image_width(buffer);
    (void)exposure, (void)gain, (void)format;
    for (int rows = arv_buffer_get_image_height(buffer); rows > 0; rows--, row += width, web->line++) {
        guint64 number = GUINT64_TO_LE(web->line);
        memcpy(row, web->strip + (web->line % web->strip_lines) * width, width);
        memcpy(row, &number, sizeof number);
    }
    if (web->end && web->line >= web->end)
        arv_fake_camera_write_register(web->camera, ARV_FAKE_CAMERA_REGISTER_ACQUISITION, 0);
}

int main(int count, char **arguments) {
    Web web = {0};
    gchar *strip;
    ArvGvFakeCamera *camera;
    if (count != 7 || !g_file_get_contents(arguments[2], &strip, NULL, NULL))
        return 2;
    web.strip = (const guint8 *)strip;
    web.strip_lines = g_ascii_strtoull(arguments[3], NULL, 10);
    web.line = g_ascii_strtoull(arguments[4], NULL, 10);
    guint64 lines = g_ascii_strtoull(arguments[5], NULL, 10);
    web.end = lines ? web.line + lines : 0;

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
