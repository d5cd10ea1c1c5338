"""Runs with emulated line cameras: lines that a source brings in, and tables of what was recorded."""
