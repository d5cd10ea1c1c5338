"""Engines measured: their answers, and whether those are right; calls in closed loops; memory, profile, baselines."""
