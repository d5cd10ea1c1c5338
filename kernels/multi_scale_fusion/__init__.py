"""Each scale plus the resampled, projected maps of the two others."""
