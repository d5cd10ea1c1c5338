/* Verdicts on raw images through the C interface: verdicts PACKAGE ENGINE IMAGES COUNT PYTHON; a line an image. */
#include <prn_fast/engine.h>

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 6) {
        return 1;
    }
    char message[256] = "";
    const prn_engine_options options = {sizeof(options), 0, argv[2], argv[5]};
    prn_engine *engine = NULL;
    if (prn_engine_open("no.prn", &options, &engine, message, sizeof(message)) != PRN_ENGINE_FAILED || engine != NULL) {
        return 2;
    }
    fprintf(stderr, "%s\n", message);
    if (prn_engine_open(argv[1], &options, &engine, message, sizeof(message)) != PRN_OK) {
        fprintf(stderr, "%s\n", message);
        return 3;
    }
    prn_engine_info info = {sizeof(info), 0, 0, 0, 0, 0};
    if (prn_engine_describe(engine, &info) != PRN_OK) {
        return 4;
    }
    const size_t count = (size_t)atoi(argv[4]);
    const size_t bytes = count * info.image_size * info.image_size * info.image_channels;
    uint8_t *images = malloc(bytes);
    FILE *file = fopen(argv[3], "rb");
    if (file == NULL || fread(images, 1, bytes, file) != bytes) {
        return 5;
    }
    fclose(file);
    uint8_t *defective = malloc(count);
    float *scores = malloc(count * sizeof(float)), *raw_scores = malloc(count * sizeof(float));
    prn_detections found = {sizeof(found), 0, defective, scores, raw_scores, NULL};
    if (prn_engine_infer(engine, images, 0, &found, message, sizeof(message)) != PRN_BAD_ARGUMENT) {
        return 6;
    }
    found.struct_size = 4;
    if (prn_engine_infer(engine, images, count, &found, message, sizeof(message)) != PRN_BAD_ARGUMENT) {
        return 7;
    }
    found.struct_size = sizeof(found);
    if (prn_engine_infer(engine, images, count, &found, message, sizeof(message)) != PRN_OK) {
        fprintf(stderr, "%s\n", message);
        return 8;
    }
    for (size_t i = 0; i < count; ++i) {
        printf("%d %.9g %.9g %.17g\n", defective[i], scores[i], raw_scores[i], info.threshold);
    }
    prn_engine_close(engine);
    prn_engine_close(NULL);
    free(images), free(defective), free(scores), free(raw_scores);
    return 0;
}
