"""Camera bytes to the network's normalised input."""
