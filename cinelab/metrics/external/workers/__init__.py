"""Scripts that another environment's python runs: they import the standard library, and that
environment's tool."""
