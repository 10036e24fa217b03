"""A notebook's grid of cells through papermill: on this machine or on a cluster, resumable."""
