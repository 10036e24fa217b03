"""The workbench: sweeps, notebook helpers and every plot."""
