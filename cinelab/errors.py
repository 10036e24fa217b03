"""The one exception a user meets: a sentence with the field, the value and the remedy."""


class CinelabError(Exception):
    """Bad input or a broken file. The message is shown as it is; the command line exits with 2."""
