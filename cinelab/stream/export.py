"""A session's film as files that stand on their own: mp4, shot list, storyboard, and the screenplay
that makes it again."""

from collections import OrderedDict
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.outputs import together
from cinelab.readable import Made
from cinelab.script.screenplay import PromptChange, Screenplay, Shot
from cinelab.script.shotlist import ShotList
from cinelab.script.timeline import CONTINUE, Timeline, plan
from cinelab.stream.commands import Settings, asked, news
from cinelab.stream.director import MARK, require_new_folder
from cinelab.stream.session import Node, Session
from cinelab.stream.storyboard import save_png, storyboard
from cinelab.stream.video import write_gif, write_mp4


def screenplay_of(
    session: Session, head: int | None = None, title: str = "A directed film"
) -> Screenplay:
    """What `cinelab direct` renders to the same film, bit for bit: prompts, cuts, seeds and
    settings of every chunk."""
    nodes = [session.nodes[number] for number in session.path(head)]
    if not nodes:
        raise CinelabError("The film has no chunk yet; play first.")
    bundle = session.reel.bundle
    seconds = bundle.chunk * bundle.codec.stride / bundle.fps  # of a chunk
    shots = []
    before = None
    for _, group in groupby(nodes, lambda node: node.shot):
        for entry in _entries(list(group)):
            shot, before = _shot(entry, before, seconds)
            shots.append(shot)
    return Screenplay(title, tuple(shots), nodes[0].said.seed)


def _entries(nodes: list[Node]) -> list[list[Node]]:
    """A shot's chunks as entries of a screenplay: a second one where its opening prompt is told as
    going on. It is a change, not an entry, that may re-cache, so the second begins before such a
    one."""
    told = f"{CONTINUE} {nodes[0].said.prompt}"
    split = next((place for place, node in enumerate(nodes) if node.text == told), len(nodes))
    while split < len(nodes) and nodes[split].recache:
        split -= 1
    return [part for part in (nodes[:split], nodes[split:]) if part]


def _shot(nodes: list[Node], before: Settings | None, seconds: float) -> tuple[Shot, Settings]:
    """One shot: what it opens with, and what changed in it, each with only what differs from
    before."""
    opening = nodes[0].said
    now = nodes[0].said
    changes = []
    for place, node in enumerate(nodes[1:], 1):
        if node.recache or asked(node.said) != asked(now):
            changes.append(
                PromptChange(
                    place * seconds, node.said.prompt, recache=node.recache, **news(node.said, now)
                )
            )
            now = node.said
    goes_on = "continue" if nodes[0].index and not nodes[0].cut else "cut"
    return Shot(
        opening.prompt, len(nodes) * seconds, goes_on, tuple(changes), **news(opening, before)
    ), now


def timeline_of(session: Session, head: int | None = None) -> Timeline:
    bundle = session.reel.bundle
    return plan(screenplay_of(session, head), bundle.fps, bundle.codec.stride, bundle.chunk)


def export(
    session: Session, folder: str | Path, head: int | None = None, title: str = "A directed film"
) -> Path:
    """Write film.mp4, film.gif, film.shots.json, storyboard.png, screenplay.yaml, film.json; an
    existing film is not overwritten."""
    folder = require_new_folder(folder)
    play = screenplay_of(session, head, title)
    bundle = session.reel.bundle
    line = timeline_of(session, head)
    frames = session.frames(head)
    captions = [shot.prompt for shot in play.shots]
    info = {
        "title": title,
        "model": bundle.name,
        "seed": play.seed,
        "fps": bundle.fps,
        "cuts": line.cuts,
        "frames": len(frames),
        "session": str(session.folder),
    }
    with together(folder, MARK) as scratch:
        play.save(scratch / "screenplay.yaml")
        ShotList.of(line).save(scratch / "film.shots.json")
        save_png(
            storyboard(
                frames, line.entry_spans, captions, title=title, fps=bundle.fps, turns=line.turns
            ),
            scratch / "storyboard.png",
        )
        write_gif(scratch / "film.gif", frames, bundle.fps)
        write_mp4(scratch / "film.mp4", frames, bundle.fps)
        write_json(scratch / MARK, info)
    return Made(folder)


def at_rest(session: Session) -> Session:
    """The session as it is now, to be read or exported in another thread while its engine goes on.
    Not to be directed."""
    return replace(
        session,
        nodes=dict(session.nodes),
        sums=dict(session.sums),
        _before=[],
        _states=OrderedDict(),
        _held=None,
    )
