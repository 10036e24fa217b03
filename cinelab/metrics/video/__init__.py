"""Metrics of any video: cuts, motion, appearance, prompt alignment, consistency across shots."""
