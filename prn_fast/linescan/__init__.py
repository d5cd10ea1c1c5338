"""Line-scan cameras: sources, the native line ring and tiler, the inspector and its dashboard.

The native core is in `prn_fast.linescan.core`; importing it raises a LinescanError where it was not compiled.
"""
