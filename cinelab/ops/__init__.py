"""Attention kernels behind one switch, rotary positions, tensor helpers. Knows no model."""
