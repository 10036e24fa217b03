"""The exceptions a user meets: a sentence with the field, the value and the remedy."""

import re

# characters of a message, of a quoted value in it, and of one that is cut
LONGEST = 1500
QUOTED = 300
SHOWN = 57
LONG_QUOTE = re.compile(rf"""(['"])((?:(?!\1).){{{QUOTED},}}?)\1(?![\w'"])""", re.DOTALL)


class CinelabError(Exception):
    """Bad input or a broken file. The message is shown as it is; the command line exits with
    `code`.

    A value of very many characters is cut, wherever it was quoted: the message stays a sentence.
    """

    code = 2

    def __init__(self, *parts: object):
        super().__init__(*(brief(part) if isinstance(part, str) else part for part in parts))


class Failed(CinelabError):
    """Something went wrong on the way, with input that was good: a disk that filled up, a process
    that died.

    What was made until then is kept.
    """

    code = 1


def brief(message: str) -> str:
    """Return a message without the greater part of very long values: of a quoted one its beginning
    is shown."""
    if len(message) > QUOTED:
        message = LONG_QUOTE.sub(
            lambda found: f"{found[1]}{found[2][:SHOWN]}...{found[1]}", message
        )
    return (
        message if len(message) <= LONGEST else f"{message[: LONGEST - 400]} ... {message[-300:]}"
    )


def system_words(error: BaseException) -> str:
    """Return what the system says of an error, as it says it."""
    return getattr(error, "strerror", None) or str(error)


def reason(error: BaseException) -> str:
    """Return what the system says of an error, in small letters, for the middle of a sentence."""
    return system_words(error).lower()
