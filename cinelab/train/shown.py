"""What a memory policy is given of each latent frame of a training clip: its shot, or what it
shows."""

from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.latent.store import Clips
from cinelab.memory.policy import Policy


def numbers_of(clips: Clips, policy: Policy) -> Tensor:
    """Return the shot of each latent frame (B, F), or for an oracle that asks for it the number of
    the character ("who") or of the place ("where") that it shows.

    Raises CinelabError where the store does not state these.
    """
    if policy.shown is None:
        return clips.shot
    numbers = getattr(clips, policy.shown, None)
    if numbers is None:
        raise CinelabError(
            f"The store does not state {policy.shown!r} of its latent frames, by which this oracle "
            "is trained; build a store of toybox films again, or train under another policy."
        )
    return numbers
