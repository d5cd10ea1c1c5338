"""Going through predictions by hand: which are good after all, which are defects, and where."""
