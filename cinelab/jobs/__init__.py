"""A training as one file, on one process or on many."""
