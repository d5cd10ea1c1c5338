"""What the machine can do, and what it did meanwhile: ceilings, clocks, load, hardware state, versions."""
