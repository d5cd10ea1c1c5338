"""Anomaly map and image score of a logit map."""
