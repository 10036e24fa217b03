"""The memory of a directed film, looked into: who looked where, the pictures that were retrieved, and what would be otherwise."""

from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image

from cinelab.lab.catalogue import sheet
from cinelab.lab.plots import PALETTE, TEMPLATE, routing_by_shot, routing_map
from cinelab.model.zoo import load
from cinelab.stream.export import timeline_of
from cinelab.stream.follow import follow_run
from cinelab.stream.session import Session, Settings, read_record
from cinelab.stream.whatif import Change, difference, most_retrieved, shares, what_if


def sample_session(folder: str | Path, model: str = "toybox-2step", chunks: int = 4) -> Session:
    """A short film in which a cat leaves and comes back: something to look into where nothing was directed yet."""
    cat = "medium shot of a red cat that {} in the meadow by day, the camera rests"
    robot = "medium shot of a blue robot that {} in the city at night, the camera rests"
    session = Session.create(folder, load(model), Settings(cat.format("stands still"), seed=4))
    for text in (cat.format("stands still"), robot.format("waves"), robot.format("dances"), cat.format("stands still")):
        if session.desk.head is not None:
            session.do("cut", text=text)
        for _ in range(chunks):
            session.step()
    return session


def open_session(folder: str | Path, own: str | Path | None = None) -> Session:
    """A session from its folder, with the model that it was made with. The folder of a film becomes a session in `own`
    (default: `session` in that folder) once, and is opened from there."""
    folder = Path(folder)
    if not (folder / "session.json").exists():
        own = Path(own or folder / "session")
        if not (own / "session.json").exists():
            return follow_run(folder, own)
        folder = own
    return Session.read(folder, load(read_record(folder).model))


def routing_of(session: Session) -> pd.DataFrame:
    """Who looked at whom, the whole film: chunk, shot, layer, head, kept_chunk, kept_shot, score, kind."""
    return session.routing()


def maps(session: Session) -> tuple[go.Figure, go.Figure]:
    """By chunk (a menu picks the layer) and by shot."""
    table = routing_of(session)
    return routing_map(table, timeline_of(session)), routing_by_shot(table, kinds=("routed", "window", "sink"))


def heads_of(session: Session, chunk: int | None = None) -> go.Figure:
    """One chunk, head by head: which shot each head of each layer retrieved."""
    table = routing_of(session)
    chunk = int(table["chunk"].max()) if chunk is None else chunk
    here = table[table["chunk"] == chunk]
    fig = go.Figure(layout={"template": TEMPLATE, "title": f"Chunk {chunk}: what each head sees", "barmode": "stack", "height": 420})
    for place, (shot, part) in enumerate(here.groupby("kept_shot")):
        counts = part.groupby(["layer", "head"]).size()
        names = [f"layer {layer}, head {head}" if head >= 0 else f"layer {layer}" for layer, head in counts.index]
        fig.add_bar(x=names, y=counts.to_numpy(), name=f"shot {shot + 1}", marker={"color": PALETTE[place % len(PALETTE)]})
    return fig.update_yaxes(title_text="chunks seen")


def retrieved(session: Session, count: int = 4) -> Image.Image:
    """The last shot's pictures, and below them those of the earlier chunks that it looked at most (shot, first frame)."""
    frames, line = session.frames(), timeline_of(session)
    start, end = line.shot_spans[-1]
    stills = lambda first, last: [frames[i] for i in np.linspace(first, last - 1, 3).round().astype(int)]  # noqa: E731
    rows = [("now", stills(start, end))]
    for chunk in most_retrieved(session, count=count):
        slot = line.slots[chunk]
        first, last = line.pixel_span(slot.first)[0], line.pixel_span(slot.first + slot.frames - 1)[1]
        rows.append((f"shot {slot.shot + 1}, {first}", stills(first, last)))
    return sheet(rows)


def compare_memories(session: Session, changes: dict[str, Change], stills: int = 6) -> tuple[Image.Image, pd.DataFrame]:
    """The last shot under several changes on the same noise: a row of pictures each, and how far each is from the shot itself."""
    made = {"as it is": what_if(session)} | {label: what_if(session, change) for label, change in changes.items()}
    rows = [(label, [film[i] for i in np.linspace(0, len(film) - 1, stills).round().astype(int)]) for label, film in made.items()]
    found = [{"memory": label, "difference, grey levels": difference(made["as it is"], film)} for label, film in made.items()]
    return sheet(rows), pd.DataFrame(found).round(2)


def erasures(session: Session) -> tuple[Image.Image, pd.DataFrame]:
    """Every earlier shot erased in turn: which one does the last shot lean on?"""
    last = session.nodes[session.desk.head].shot
    picture, table = compare_memories(session, {f"without shot {number}": Change(without=(number,)) for number in range(1, last + 1)})
    looked = shares(session)
    return picture, table.assign(**{"share of what was retrieved": [None, *(round(looked.get(n, 0.0), 3) for n in range(1, last + 1))]})
