"""Training stages as notebooks use them: set up by preset, watch, export."""
