"""Line-scan cameras: sources, the native line ring and tiler, the inspector and its dashboard.

The native core is in `prn_fast.linescan.core`; importing it raises a LinescanError where it was not compiled.
"""

# Strips that may wait for the inspector.
DEFAULT_DEPTH = 8
