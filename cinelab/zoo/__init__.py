"""Models by name or folder, whole: network, codec, text encoder and settings."""
