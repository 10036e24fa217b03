"""The world as a state: a place, a camera and figures. A tick, one frame, takes actions.

    camera     x in frame heights from the middle of the set, zoom 1 = as the shot begins
    figures    x in frame heights, and what each does since how many ticks
    actions    the camera goes left, stays or goes right, and in, stays or out; a figure begins
               another action, or goes on with its own

A film's shot is a constant track: its camera word and its action, from a first state on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cinelab.errors import CinelabError
from cinelab.world.toybox2.words import PROMPTED

HEIGHT = 96
WIDTH = 128
FPS = 8.0
STRIDE = 2  # frames a latent frame, after the first
SPAN = 8.0  # of a set, in frame heights
# Speeds are known: frame heights a second, and share a second.
PAN = 0.05
ZOOM = 0.05
WALK = 0.45  # units of a figure a second
UNIT = {"wide": 19.0, "medium": 28.0, "close": 41.0}  # frame pixels a unit of a figure
LENS = {"wide": 1.0, "medium": 1.08, "close": 1.18}  # zoom of the set behind
ACTIONS = PROMPTED["action"]
SIDEWAYS = {"pan left": -1, "pan right": 1}
INWARD = {"zoom in": 1, "zoom out": -1}
WAY = {"walk left": -1, "walk right": 1}


@dataclass(frozen=True)
class Appearance:
    """What a character looks like, always."""

    kind: str
    colour: str
    pattern: str
    accessory: str
    second: str


@dataclass(frozen=True)
class Figure:
    """A character in a place: where it is, what it does, and for how many ticks."""

    looks: Appearance
    x: float = 0.0
    action: str = "stand"
    ticks: int = 0
    behind: bool = False  # farther back: smaller, and drawn first

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise CinelabError(
                f"A figure's action is {self.action!r}; use one of {', '.join(ACTIONS)}."
            )


@dataclass(frozen=True)
class Camera:
    """Where the camera is, and its zoom, 1 as the shot begins."""

    x: float = 0.0
    zoom: float = 1.0


@dataclass(frozen=True)
class Place:
    """A set: what it shows, always. `seed` lays out its small scenery and its far landmarks."""

    setting: str
    landmark: str
    side: str
    seed: int = 0


@dataclass(frozen=True)
class State:
    """Everything that a frame shows."""

    place: Place
    time: str
    size: str
    camera: Camera = Camera()
    figures: tuple[Figure, ...] = ()
    ticks: int = 0


@dataclass(frozen=True)
class CameraAction:
    """One tick of the camera: left -1, right 1; in 1, out -1; 0 stays."""

    sideways: int = 0
    inward: int = 0

    def __post_init__(self) -> None:
        for name in ("sideways", "inward"):
            if getattr(self, name) not in (-1, 0, 1):
                raise CinelabError(
                    f"The camera's {name} is {getattr(self, name)!r}; it is -1, 0 or 1."
                )


STAY = CameraAction()


def camera_action(word: str) -> CameraAction:
    """Return what a camera word does at every tick."""
    return CameraAction(SIDEWAYS.get(word, 0), INWARD.get(word, 0))


def walk_speed(size: str) -> float:
    """Return how far a figure walks, in frame heights a second: as many of its own units in every
    shot size."""
    return WALK * UNIT[size] / (HEIGHT * LENS[size])


def advance(
    state: State, camera: CameraAction = STAY, actions: Mapping[int, str] | None = None
) -> State:
    """Return the state a tick later. `actions` names what figures begin, by their number; who goes
    on with its action is not named."""
    begun = actions or {}
    speed = walk_speed(state.size)
    figures = tuple(
        _moved(figure, begun.get(number, figure.action), speed)
        for number, figure in enumerate(state.figures)
    )
    moved = Camera(
        state.camera.x + camera.sideways * PAN / FPS, _zoomed(state.camera.zoom, camera.inward)
    )
    return replace(state, camera=moved, figures=figures, ticks=state.ticks + 1)


def _moved(figure: Figure, action: str, speed: float) -> Figure:
    """Return a figure a tick later; a walker moves, on screen or off."""
    if action != figure.action:
        return replace(figure, action=action, ticks=0)
    x = figure.x + WAY.get(action, 0) * speed / FPS
    return replace(figure, x=x, ticks=figure.ticks + 1)


def _zoomed(zoom: float, inward: int) -> float:
    """Return the zoom a tick later: a share of the first frame's a second, in as out."""
    step = inward * ZOOM / FPS
    depth = zoom - 1 if zoom >= 1 else 1 - 1 / zoom
    depth += step
    return 1 + depth if depth >= 0 else 1 / (1 - depth)
