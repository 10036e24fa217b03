"""Speed: frames per second, latency, memory."""
