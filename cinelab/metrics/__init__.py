"""What a film is worth: each metric with its interval, chance and upper bound."""
