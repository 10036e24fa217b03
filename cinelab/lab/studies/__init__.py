"""The studies: memory, initialisation, injectivity, whole films."""
