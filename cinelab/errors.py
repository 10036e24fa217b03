"""The exceptions a user meets: a sentence with the field, the value and the remedy."""


class CinelabError(Exception):
    """Bad input or a broken file. The message is shown as it is; the command line exits with `code`."""

    code = 2


class Failed(CinelabError):
    """Something went wrong on the way, with input that was good: a disk that filled up, a process that died.

    What was made until then is kept.
    """

    code = 1


def reason(error: BaseException) -> str:
    """Return what the system says, in small letters."""
    return (getattr(error, "strerror", None) or str(error)).lower()
