"""The KV cache of a directed film, inspected: which chunk attended to which, the frames that were
retrieved, and what the film would be under another cache."""

from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from cinelab.errors import CinelabError
from cinelab.lab.reports.plots import SEQUENTIAL, TEMPLATE, nothing
from cinelab.lab.reports.routing_plots import routing_by_shot, routing_map
from cinelab.lab.reports.toybox_figures import sheet
from cinelab.stream.export import timeline_of
from cinelab.stream.session import Session, Settings, read_record
from cinelab.stream.session_from_film import session_from_run
from cinelab.stream.whatif import Change, chunk_shares, mean_difference, shares, what_if
from cinelab.zoo.checkpoints import load

# columns of the tables below
DIFFERENCE = "difference, grey levels"
SHARE = "share of its attention"
MOST_SHOTS = 12  # that one chunk is drawn for
ROUTING_KINDS = ("routed", "window", "sink")  # of the map by shot


CAT = "medium shot of a red cat that {} in the meadow by day, the camera rests"
ROBOT = "medium shot of a blue robot that {} in the city at night, the camera rests"
# prompt, action, chunks
SAMPLE = (
    (CAT, "stands still", 8),
    (ROBOT, "waves", 8),
    (ROBOT, "dances", 8),
    (CAT, "stands still", 4),
)


def sample_session(folder: str | Path, model: str = "toybox-2step", seed: int = 1) -> Session:
    """Make a short film in which a cat leaves and comes back, to inspect before anything was
    directed. Its history is four times CAMR's budget of 6, so retrieval matters.
    """
    session = Session.create(folder, load(model), Settings(CAT.format("stands still"), seed=seed))
    for text, action, chunks in SAMPLE:
        if session.desk.head is not None:
            session.do("cut", text=text.format(action))
        for _ in range(chunks):
            session.step()
    return session


def open_session(folder: str | Path, own: str | Path | None = None) -> Session:
    """Open a session with the model that made it. The folder of a film becomes a session in `own`
    (default: `session` in that folder) once, and is opened from there."""
    folder = Path(folder)
    if not (folder / "session.json").exists():
        own = Path(own or folder / "session")
        if not (own / "session.json").exists():
            return session_from_run(folder, own)
        folder = own
    return Session.read(folder, load(read_record(folder).model))


def routing_of(session: Session) -> pd.DataFrame:
    """Return the routing decisions of the whole film, one row per (chunk, layer, head, retrieved
    chunk): chunk, shot, layer, head, kept_chunk, kept_shot, score, kind."""
    return session.routing()


def maps(session: Session) -> tuple[go.Figure, go.Figure]:
    """Return the routing by chunk (a menu picks the layer) and by shot."""
    table = routing_of(session)
    by_chunk = routing_map(table, timeline_of(session).slots)
    return by_chunk, routing_by_shot(table, kinds=ROUTING_KINDS)


def heads_of(session: Session, chunk: int | None = None) -> go.Figure:
    """Draw one chunk (counted from 0, default: the last), head by head: a heat map layer x head for
    every shot that it retrieved from; layer x shot where all heads of a layer retrieve the same."""
    table = routing_of(session)
    if table.empty:
        return nothing("What each head retrieved", "no chunk retrieved anything")
    chunk = int(table["chunk"].max()) if chunk is None else chunk
    here = table[table["chunk"] == chunk].drop_duplicates(["layer", "head", "kept_chunk"])
    if here.empty:
        return nothing(
            f"Chunk {chunk + 1}: what each head retrieved", "this chunk retrieved nothing"
        )
    if (here["head"] < 0).all():
        return _layers(here, chunk)
    shots = sorted(here["kept_shot"].value_counts().index[:MOST_SHOTS])
    columns = min(len(shots), 4)
    rows = -(-len(shots) // columns)
    fig = make_subplots(
        rows,
        columns,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[f"from shot {shot + 1}" for shot in shots],
    )
    for place, shot in enumerate(shots):
        fig.add_trace(_heads(here, shot), row=place // columns + 1, col=place % columns + 1)
    fig.update_layout(
        template=TEMPLATE,
        title=f"Chunk {chunk + 1}: chunks that each head retrieved, by their shot",
        height=160 + 300 * rows,
        coloraxis=_counts(here),
    )
    fig.update_xaxes(title_text="head (from 1)", type="category", showgrid=False)
    fig.update_yaxes(type="category", showgrid=False)
    return fig.update_yaxes(title_text="layer (from 1)", col=1)


def _heads(here: pd.DataFrame, shot: int) -> go.Heatmap:
    """Count the chunks of a shot that every layer (down) and head (along) retrieved."""
    layers = sorted(here["layer"].unique())
    heads = sorted(here["head"].unique())
    counts = here[here["kept_shot"] == shot].groupby(["layer", "head"]).size().unstack(fill_value=0)
    counts = counts.reindex(index=layers, columns=heads, fill_value=0)
    hover = f"layer %{{y}}, head %{{x}}: %{{z}} chunks of shot {shot + 1}<extra></extra>"
    return _heat(counts, ["all" if head < 0 else str(head + 1) for head in heads], hover)


def _layers(here: pd.DataFrame, chunk: int) -> go.Figure:
    """Draw a heat map layer (down) x shot (along): the chunks of a shot that all heads of a layer
    retrieved."""
    counts = here.groupby(["layer", "kept_shot"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=range(int(here["shot"].iloc[0]) + 1), fill_value=0)
    hover = "layer %{y}: %{z} chunks of shot %{x}<extra></extra>"
    fig = go.Figure(_heat(counts, [str(shot + 1) for shot in counts], hover))
    title = (
        f"Chunk {chunk + 1}: chunks that each layer retrieved, by their shot"
        "<br><sub>all heads of a layer retrieve the same</sub>"
    )
    fig.update_layout(template=TEMPLATE, title=title, height=440, coloraxis=_counts(here))
    fig.update_xaxes(title_text="shot retrieved from", type="category", showgrid=False)
    return fig.update_yaxes(title_text="layer (from 1)", type="category", showgrid=False)


def _heat(counts: pd.DataFrame, along: list[str], hover: str) -> go.Heatmap:
    return go.Heatmap(
        x=along,
        y=[str(layer + 1) for layer in counts.index],
        z=counts.to_numpy(),
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
        texttemplate="%{z}",
        hovertemplate=hover,
    )


def _counts(here: pd.DataFrame) -> dict:
    """Return the colour axis of counts, from 0 to the most chunks that a head retrieved."""
    most = int(here.groupby(["layer", "head"]).size().max())
    return {
        "cmin": 0,
        "cmax": most,
        "colorscale": SEQUENTIAL,
        "colorbar": {"title": {"text": "chunks"}, "dtick": 1},
    }


def retrieved(session: Session, count: int = 4) -> Image.Image:
    """Draw the last shot's frames, and below them the `count` chunks of earlier shots that drew
    most of its attention, with shot and share."""
    frames = session.frames()
    timeline = timeline_of(session)
    start, end = timeline.shot_spans[-1]
    rows = [("now", _stills(frames, start, end))]
    for chunk, share in list(chunk_shares(session).items())[:count]:
        slot = timeline.slots[chunk]
        first = timeline.pixel_span(slot.first)[0]
        last = timeline.pixel_span(slot.first + slot.frames - 1)[1]
        label = f"shot {slot.shot + 1}\nchunk {chunk + 1}\n{share:.0%}"
        rows.append((label, _stills(frames, first, last)))
    return sheet(rows)


def _stills(frames: np.ndarray, first: int, end: int, count: int = 3) -> list[np.ndarray]:
    """Return `count` frames, evenly spaced from `first` to the one before `end`."""
    return [frames[i] for i in np.linspace(first, end - 1, count).round().astype(int)]


def compare_memories(
    session: Session, changes: dict[str, Change], stills: int = 6
) -> tuple[Image.Image, pd.DataFrame]:
    """Make the last shot under several changes from the same noise. Return a row of frames each,
    and how far each is from the shot itself."""
    made = {"as it is": what_if(session)}
    made |= {label: what_if(session, change) for label, change in changes.items()}
    rows = [(label, _stills(film, 0, len(film), stills)) for label, film in made.items()]
    found = [
        {"memory": label, DIFFERENCE: mean_difference(made["as it is"], film)}
        for label, film in made.items()
    ]
    return sheet(rows), pd.DataFrame(found).round(2)


def erasures(session: Session) -> tuple[Image.Image, pd.DataFrame]:
    """Erase every earlier shot in turn. Return the last shot without each, and a table of how much
    it changes and how much it attended to each."""
    head = session.desk.head
    if head is None:
        raise CinelabError("The session has no chunk yet; direct one first.")
    earlier = range(1, session.nodes[head].shot + 1)
    changes = {f"without shot {number}": Change(without=(number,)) for number in earlier}
    image, table = compare_memories(session, changes)
    attended = shares(session)
    column = [None, *(round(attended.get(number, 0.0), 3) for number in earlier)]
    return image, table.assign(**{SHARE: column})


def agreement(table: pd.DataFrame) -> str:
    """Return one sentence on a table of `erasures`: whether the shot whose loss shows most is the
    one that was attended to most."""
    lost = _largest(table, DIFFERENCE)
    attended = _largest(table, SHARE)
    if lost == attended:
        return f"The shot whose loss shows most is the one that was attended to most: {lost}."
    return (
        f"Here the two disagree: the loss of {lost} shows most, and {attended} was attended to "
        "most."
    )


def _largest(table: pd.DataFrame, column: str) -> str:
    """Return the erased shot with the largest value."""
    erased = table.iloc[1:]
    return erased.loc[erased[column].idxmax(), "memory"].removeprefix("without ")
