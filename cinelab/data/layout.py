"""From pictures to latent frames: where shots stand in films, so that no latent frame mixes two
shots.

    s = stride   the first latent frame of a film holds one picture, each later one s

A shot that opens a film has 1 + (K - 1) // s latent frames of its K pictures, any other K // s, cut
down to whole chunks; the pictures left over at its end are dropped. Shots follow one another until
a film is as long as it may be: a shot that does not fit begins the next one or, where films are to
be filled, is cut there and goes on in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Take:
    """A shot as found: pictures first .. last (excluded) of a reel, and (pictures after the first,
    caption) from there on."""

    reel: int
    first: int
    last: int
    captions: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Piece:
    """A shot as it stands in a film: its pictures, and (caption, latent frames under it) in
    order."""

    reel: int
    first: int
    pictures: int
    prompts: tuple[tuple[str, int], ...]

    @property
    def latents(self) -> int:
        return sum(count for _, count in self.prompts)


def latents_in(pictures: int, stride: int, opens: bool) -> int:
    """Whole latent frames in a shot of so many pictures."""
    return (pictures + stride - 1) // stride if opens else pictures // stride


def pictures_in(latents: int, stride: int, opens: bool) -> int:
    """Pictures that so many latent frames hold."""
    return latents * stride - (stride - 1 if opens else 0)


def films(
    takes: Iterable[Take],
    stride: int,
    chunk: int = 1,
    shortest: int = 1,
    longest: int = 10**9,
    fill: bool = False,
) -> tuple[list[tuple[Piece, ...]], list[Take]]:
    """Films of at most `longest` latent frames (with `fill` all but the last are so long), and the
    takes shorter than `shortest`."""
    done: list[tuple[Piece, ...]] = []
    film: list[Piece] = []
    short: list[Take] = []
    for take in takes:
        at = take.first
        while at < take.last or at == take.first:
            fits = latents_in(take.last - at, stride, not film)
            count = min(fits - fits % chunk, longest)
            if count < shortest or not count:
                short += [take] if at == take.first else []
                break
            room = longest - sum(piece.latents for piece in film)
            count = min(count, room) if fill else count
            if count > room:
                done.append(tuple(film))
                film = []
                continue
            pictures = pictures_in(count, stride, not film)
            film.append(
                Piece(take.reel, at, pictures, _prompts(take, at, count, stride, chunk, not film))
            )
            at += pictures
            if sum(piece.latents for piece in film) == longest:
                done.append(tuple(film))
                film = []
            if count == fits - fits % chunk:  # what is left is less than a chunk
                break
    return done + ([tuple(film)] if film else []), short


def _prompts(
    take: Take, at: int, count: int, stride: int, chunk: int, opens: bool
) -> tuple[tuple[str, int], ...]:
    """(caption, latent frames) in order; a caption that changes within a chunk changes at its
    nearer end."""
    starts = []
    for offset, _ in take.captions:
        # in latent frames
        place = (take.first + offset - at + (stride - 1 if opens else 0)) / stride
        starts.append(
            min(max(0, chunk * round(place / chunk)), count) if take.first + offset > at else 0
        )
    ends = [*starts[1:], count]
    return tuple(
        (caption, end - start)
        for (_, caption), start, end in zip(take.captions, starts, ends, strict=True)
        if end > start
    )
