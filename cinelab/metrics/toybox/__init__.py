"""Metrics with exact truth: what a toybox film shows, read by the recogniser, against its plan."""
