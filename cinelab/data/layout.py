"""The layout of a store's films: which clip of which shot stands where, so that no latent frame
mixes two shots.

    video     a file; its frames are those at the rate of the data set
    shot      the frames of a video between two cuts
    clip      the frames of a shot that stand in one film, under their prompts
    s stride  the first latent frame of a film holds one frame, each later one s

A shot that opens a film has 1 + (K - 1) // s latent frames of its K frames, any other K // s, cut
down to whole chunks; the frames left over at its end are dropped. Shots follow one another until
a film is as long as it may be: a shot that does not fit begins the next one or, where films are to
be filled, is cut there and goes on in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class VideoShot:
    """A shot as it was found: frames first .. last (excluded) of a video, and its captions, each
    with the frames after the first from which it holds."""

    video: int  # index among the videos of its source
    first: int
    last: int
    captions: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class ShotClip:
    """The stretch of a shot that stands in a film: its frames, and (caption, latent frames under
    it) in order."""

    video: int  # index among the videos of its source
    first: int
    frames: int
    prompts: tuple[tuple[str, int], ...]

    @property
    def latents(self) -> int:
        return sum(count for _, count in self.prompts)


def latents_in(frames: int, stride: int, opens: bool) -> int:
    """Return the number of whole latent frames in a shot of so many frames."""
    return (frames + stride - 1) // stride if opens else frames // stride


def frames_in(latents: int, stride: int, opens: bool) -> int:
    """Return the number of frames that so many latent frames hold."""
    return latents * stride - (stride - 1 if opens else 0)


def films(
    shots: Iterable[VideoShot],
    stride: int,
    chunk: int = 1,
    *,
    shortest: int = 1,
    longest: int = 10**9,
    fill: bool = False,
) -> tuple[list[tuple[ShotClip, ...]], list[VideoShot]]:
    """Lay shots out in films of at most `longest` latent frames (with `fill` all but the last are
    so long). Return the films, and the shots that are shorter than `shortest`."""
    done: list[tuple[ShotClip, ...]] = []
    film: list[ShotClip] = []
    short: list[VideoShot] = []
    for shot in shots:
        at = shot.first
        while at < shot.last or at == shot.first:
            fits = latents_in(shot.last - at, stride, not film)
            count = min(fits - fits % chunk, longest)
            if count < shortest or not count:
                short += [shot] if at == shot.first else []
                break
            room = longest - sum(clip.latents for clip in film)
            count = min(count, room) if fill else count
            if count > room:
                done.append(tuple(film))
                film = []
                continue
            frames = frames_in(count, stride, not film)
            film.append(
                ShotClip(shot.video, at, frames, _prompts(shot, at, count, stride, chunk, not film))
            )
            at += frames
            if sum(clip.latents for clip in film) == longest:
                done.append(tuple(film))
                film = []
            if count == fits - fits % chunk:  # what is left is less than a chunk
                break
    return done + ([tuple(film)] if film else []), short


def _prompts(
    shot: VideoShot, at: int, count: int, stride: int, chunk: int, opens: bool
) -> tuple[tuple[str, int], ...]:
    """Return (caption, latent frames) in order; a caption that changes within a chunk changes at
    its nearer end."""
    starts = []
    for offset, _ in shot.captions:
        # in latent frames
        place = (shot.first + offset - at + (stride - 1 if opens else 0)) / stride
        starts.append(
            min(max(0, chunk * round(place / chunk)), count) if shot.first + offset > at else 0
        )
    ends = [*starts[1:], count]
    return tuple(
        (caption, end - start)
        for (_, caption), start, end in zip(shot.captions, starts, ends, strict=True)
        if end > start
    )
