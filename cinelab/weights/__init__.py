"""Published weights: their layouts, reading, converting, adapters and merges."""
