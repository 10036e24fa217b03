"""Directing live: the notebook's desk, the demo's server, the memory inspector."""
