"""From a running model to something one can watch: timed chunks, mp4 files, storyboards."""
