"""Names of the inputs and outputs of built graphs: the network's, and those of a package's screen."""

INPUT_NAME = "images"
OUTPUT_NAMES = ("scores", "maps")
SCREEN_OUTPUT_NAMES = ("screen_scores", "screen_maps")
