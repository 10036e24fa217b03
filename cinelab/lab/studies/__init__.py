"""The studies: memory, initialisation, injectivity, rewards, whole films."""
