"""What a film is worth: cuts, attributes, identity, motion, each with its interval."""
