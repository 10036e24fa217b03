"""A session's film as files of their own: mp4, shot list, storyboard, and the screenplay that makes
it again."""

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
from cinelab.stream.commands import Settings, changed_settings, screenplay_settings
from cinelab.stream.director import MARK, require_new_folder
from cinelab.stream.session import Node, Session
from cinelab.stream.storyboard import save_png, storyboard
from cinelab.stream.video import write_gif, write_mp4


def screenplay_of(
    session: Session, head: int | None = None, title: str = "A directed film"
) -> Screenplay:
    """Return the screenplay that `cinelab direct` renders to the same film, bit for bit: prompts,
    cuts, seeds and settings of every chunk."""
    nodes = [session.nodes[number] for number in session.path(head)]
    if not nodes:
        raise CinelabError("The film has no chunk yet; play first.")
    bundle = session.generator.bundle
    seconds = bundle.chunk * bundle.codec.stride / bundle.fps  # of a chunk
    shots = []
    before = None
    for _, group in groupby(nodes, lambda node: node.shot):
        for entry in _entries(list(group)):
            shot, before = _shot(entry, before, seconds)
            shots.append(shot)
    return Screenplay(title, tuple(shots), nodes[0].settings.seed)


def _entries(nodes: list[Node]) -> list[list[Node]]:
    """Divide a shot's chunks into entries of a screenplay: a second one where the model is given
    the opening prompt as a continuation. A change may re-cache and an entry may not, so the second
    begins before a chunk that does."""
    continued = f"{CONTINUE} {nodes[0].settings.prompt}"
    split = next(
        (place for place, node in enumerate(nodes) if node.model_prompt == continued), len(nodes)
    )
    while split < len(nodes) and nodes[split].recache:
        split -= 1
    return [part for part in (nodes[:split], nodes[split:]) if part]


def _shot(nodes: list[Node], before: Settings | None, seconds: float) -> tuple[Shot, Settings]:
    """Return one shot, with what it opens with and what changes in it, each with only what differs
    from before; and the settings that it ends with."""
    opening = nodes[0].settings
    now = nodes[0].settings
    changes = []
    for place, node in enumerate(nodes[1:], 1):
        if node.recache or screenplay_settings(node.settings) != screenplay_settings(now):
            changes.append(
                PromptChange(
                    place * seconds,
                    node.settings.prompt,
                    recache=node.recache,
                    **changed_settings(node.settings, now),
                )
            )
            now = node.settings
    goes_on = "continue" if nodes[0].index and not nodes[0].cut else "cut"
    return Shot(
        opening.prompt,
        len(nodes) * seconds,
        goes_on,
        tuple(changes),
        **changed_settings(opening, before),
    ), now


def timeline_of(session: Session, head: int | None = None) -> Timeline:
    """Return the timeline of the film up to `head`."""
    bundle = session.generator.bundle
    return plan(screenplay_of(session, head), bundle.fps, bundle.codec.stride, bundle.chunk)


def export_film(
    session: Session, folder: str | Path, head: int | None = None, title: str = "A directed film"
) -> Path:
    """Write film.mp4, film.gif, film.shots.json, storyboard.png, screenplay.yaml, film.json; an
    existing film is not overwritten."""
    folder = require_new_folder(folder)
    play = screenplay_of(session, head, title)
    bundle = session.generator.bundle
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
        ShotList.of(line, bundle.world_name).save(scratch / "film.shots.json")
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


def snapshot(session: Session) -> Session:
    """Return the session as it is now, to be read or exported in another thread while its engine
    goes on. It cannot be directed."""
    return replace(
        session,
        nodes=dict(session.nodes),
        checksums=dict(session.checksums),
        _before=[],
        _lock=None,
    )
