"""The live directing desk: a widget that shows a film while it is made, and directs it.

    film = desk("results/live")      continues what the folder holds

Pictures go to the browser as messages, the rest as one small trait, `view`. Of the threads, the
notebook's own hears the browser and only passes on, the engine's makes the film, the sender's tells
the browser, and an export has one while it lasts. This file knows what is said between browser and
engine; desk.js knows how it looks.
"""

import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakValueDictionary

import anywidget
import comm
import numpy as np
import traitlets
from IPython import get_ipython

from cinelab.config import to_dict
from cinelab.errors import CinelabError
from cinelab.lab.desk.frame_channel import Post, jpeg
from cinelab.lab.desk.kernel import Kernel
from cinelab.lab.desk.messages import Do, Drawn, Export, Hello, Message, Unread, Watch, parse
from cinelab.limits import RATE, check_number, short
from cinelab.memory.policy import POLICIES, Policy
from cinelab.script.prompts import LITTLE, UnknownWords
from cinelab.stream.attention_shares import shots_retrieved
from cinelab.stream.batch import named_policy
from cinelab.stream.commands import DeskState as Standing
from cinelab.stream.commands import Settings, policy_label
from cinelab.stream.export import export_film, snapshot
from cinelab.stream.fair_lock import FairLock
from cinelab.stream.film_tree import FilmTree, chunk_frames, node_frames
from cinelab.stream.live_engine import Engine
from cinelab.stream.readout import UNBOUNDED, FilmBounds, LiveChunk, Readout
from cinelab.stream.session import Session
from cinelab.stream.video import VideoWriter
from cinelab.world.vocab import PHRASES
from cinelab.zoo.bundle import Bundle
from cinelab.zoo.checkpoints import load

HERE = Path(__file__).parent
TICK = 1 / 16  # seconds that the sender waits for anything
REFRESH = 1 / 8  # seconds between two refreshed views, at least
# chunks that the engine may be before the clock: what is made cannot be directed any more
AHEAD = 0.5
EARLIER = 50  # prompts that the box goes back to
# of a first film: of the seeds 0 to 31 the one with the clearest first shots of the examples
SEED = 24
BEAT = 2.0  # seconds between two signs of life; a view that misses a few takes the kernel for dead
# seconds that they go on after the last word of a view, which a busy kernel cannot hear
BEATING = 3600.0
UNWATCHED = 5.0  # seconds that frames may be late at every view before the film pauses by itself
NOBODY = "Paused: nobody was watching. Play goes on."
EXAMPLES = {  # the first stands in the box of a new film
    "cat, meadow": "medium shot of a red cat that waves in the meadow by day",
    "rabbit, snow": "medium shot of a yellow rabbit that jumps in the snow by day",
    "robot, city": "close shot of a blue robot that dances in the city at night",
    "ghost, forest": "medium shot of a purple ghost that walks right in the forest at night, pan "
    "right",
    "cat, beach": "wide shot of an orange cat that walks left on the beach by day",
}
DOWNLOADS = ("film.mp4", "storyboard.png", "screenplay.yaml")  # of an export, handed to the browser
FIRST_WORD = re.compile(r"[a-z]+[ :]")  # and no file's name
SWITCHES = {
    "keep": "The memory stays as it is: the change comes gently, and what was seen before lingers.",
    "recache": "The running shot is shown to the memory again under the new prompt: the change "
    "comes at once.",
    "cut": "The new prompt opens a new shot.",
}
# of the read-out's causes
NAMES = {"text": "text", "dit": "model", "memory": "memory", "decode": "decode"}
# one desk a folder: a cell that is run again takes over
OPEN: "WeakValueDictionary[Path, Desk]" = WeakValueDictionary()


def desk(
    folder: str | Path,
    model: str = "toybox-2step",
    seed: int = SEED,
    policy: str | Policy | None = None,
    budget: int | None = None,
    pace: float | None = 1.0,
) -> "Desk":
    """A desk on the session in `folder`, paused; a new one where there is none. `pace` None = as
    fast as it can; no `policy` is the one that the model was trained under (see `policy_for`)."""
    folder = Path(folder).resolve()
    if pace is not None:  # None: as fast as it can
        check_number("pace", pace, above=0, most=RATE, whole=False)
    if folder in OPEN:
        OPEN[folder].close()
    with ExitStack() as held:
        session = open_session(folder, model, seed, policy, budget)
        held.callback(session.close)
        OPEN[folder] = made = Desk(session, pace, held.pop_all())
    return made


def open_session(
    folder: Path,
    model: str | Bundle,
    seed: int = SEED,
    policy: str | Policy | None = None,
    budget: int | None = None,
) -> Session:
    """Go on with the session of a folder, which has its own settings, or begin one there under a
    seed and a policy."""
    bundle = load(model) if isinstance(model, str) else model
    if (folder / "session.json").exists():
        return Session.resume(folder, bundle)
    name, units = named_policy(bundle, policy, budget)
    return Session.create(folder, bundle, Settings(seed=seed, policy=name, budget=units))


class Desk(anywidget.AnyWidget):
    """Made by `desk(...)`. Messages that come: see `cinelab.lab.desk.messages`. Messages that go:
    pictures, stills, answer, film, take, alive."""

    # As text: of a path every desk ever made would be remembered, to be told when the file changes.
    _esm = (HERE / "desk.js").read_text(encoding="utf-8")
    _css = (HERE / "desk.css").read_text(encoding="utf-8")
    about = traitlets.Dict().tag(sync=True)  # what never changes
    view = traitlets.Dict().tag(sync=True)  # all that a view must know to look as before

    def __init__(
        self,
        session: Session,
        pace: float | None = 1.0,
        held: ExitStack | None = None,
        turns: FairLock | None = None,
        bounds: FilmBounds = UNBOUNDED,
    ):
        super().__init__(about=about(session))
        # the desk itself says what it does not know, beside the box
        warnings.simplefilter("ignore", UnknownWords)
        self.folder = session.folder
        self.pace = pace
        self._held = held or ExitStack()
        self._reading = snapshot(session)
        self._board = FilmTree()
        self._stills = {}
        self._news = SimpleQueue()
        self._looked = {}
        self._refreshed = 0.0
        # chunks: the last taken from the mailbox, the last sent
        self._newest = self._on_screen = None
        self._post = self._posted()
        self._ended = threading.Event()
        # ever; the last word of a view; ours
        self._viewed = False
        self._heard_at = time.monotonic()
        self._beaten = 0.0
        self._reading_take, self._kernel = threading.Lock(), self._hears()
        for node in self._reading.nodes.values():
            self._board.add(node)
        ahead = AHEAD * self.about["chunk_seconds"]
        self.live = Engine(session, pace, self._news.put, bounds=bounds, ahead=ahead, turns=turns)
        self.view = self._seen()
        self.on_msg(self._heard)
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._serve, self._recall)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the engine after the running chunk and let go of the folder; what was made stays
        there."""
        # it has none where it could not be begun
        if not hasattr(self, "_ended") or self._ended.is_set():
            return
        self._ended.set()
        self.live.close()
        self._kernel.let_go()
        for thread in self._threads:
            thread.join(2)
        self._held.close()
        self.view = self._seen()
        self.unobserve_all()
        self._unregister()

    def _unregister(self) -> None:
        """Take the desk from the registries of widgets and comms, which would keep the film and its
        memory for ever. No `comm_close` is sent: the page would take the view away, which is to say
        that it is closed."""
        if self.comm is not None:
            comm.get_comm_manager().unregister_comm(self.comm)
            self.comm._closed = True
        super().close()

    def _posted(self) -> Post:
        """Where pictures go to: here all views of the notebook, which hear the same."""
        return Post(self.send)

    def _hears(self) -> Kernel:
        """What runs between us and the browser: here the notebook's cells."""
        return Kernel(get_ipython())

    # ---- what the browser says; nothing here waits

    def _heard(self, _widget, content: dict, _buffers) -> None:
        self.hear(content, self._post)

    def hear(self, content: Any, viewer: Post, reader: Callable[[Any], Message] = parse) -> None:
        """What a viewer says. What cannot be read is answered with a sentence, or passed over."""
        self._heard_at = time.monotonic()
        try:
            message = reader(content)
        except Unread as error:
            return None if error.id is None else self._say(error.id, viewer, error=str(error))
        hear = {
            Hello: self._hello,
            Do: self._do,
            Drawn: self._drawn,
            Export: self._export,
            Watch: self._watch,
        }
        return hear[type(message)](message, viewer)

    def _hello(self, _message: Hello, viewer: Post) -> None:
        """A view has appeared: it gets every still, and then the pictures of where the film
        stands."""
        stills = dict(self._stills)  # other threads add to it
        viewer.send({"kind": "stills", "lines": list(stills)}, list(stills.values()))
        self._viewed = True
        self._newest = None
        self._on_screen = None
        viewer.forget()

    def _drawn(self, message: Drawn, viewer: Post) -> None:
        viewer.drawn(message.number)

    def _do(self, message: Do, viewer: Post) -> None:
        """A command; with `play` the film goes on once it is carried out. A browser names only
        policies of the menu."""
        asked = message.value["value"] if message.command == "policy" else None
        if asked is not None and asked not in self.about["policies"]:
            known = ", ".join(self.about["policies"])
            return self._say(
                message.id, viewer, error=f"policy is {short(asked)}; use one of {known}."
            )
        ticket = self.live.send(message.command, **message.value)
        ticket.add_done_callback(lambda done: self._answer(message, viewer, done))
        if message.play:
            go_on = Do(message.id, "resume")
            ticket.add_done_callback(lambda done: done.exception() or self._do(go_on, viewer))

    def _export(self, message: Export, viewer: Post) -> None:
        """The film goes on while it is written: the engine only hands over what there is now."""

        def begin(ticket):
            threading.Thread(
                target=self._write, args=(message, viewer, ticket), name="cinelab-export"
            ).start()

        self.live.call(snapshot).add_done_callback(begin)

    def _watch(self, message: Watch, viewer: Post) -> None:
        """A shot up to a chunk, as a small film read from the disk: the session and its head stay
        as they are."""
        if message.chunk not in self._board.nodes:
            return self._say(
                message.id, viewer, error=f"chunk {message.chunk} is not in this session."
            )
        if not self._reading_take.acquire(blocking=False):
            return self._say(
                message.id, viewer, error="Another take is being read; try again in a moment."
            )
        threading.Thread(
            target=self._read_take, args=(message, viewer), name="cinelab-take", daemon=True
        ).start()

    # ---- answers, from whichever thread has them

    def _answer(self, message: Do, viewer: Post, ticket) -> None:
        error = ticket.exception()
        self._say(message.id, viewer, "" if error else ticket.result(), str(error or ""))

    def _say(self, id: int, viewer: Post, said: str = "", error: str = "") -> None:
        now = self.live.readout
        viewer.send(
            {
                "kind": "answer",
                "id": id,
                "said": said,
                "error": sentence(error),
                "playing": now.playing,
                "told": now.serial,
                "next": now.chunks,
            }
        )

    def _write(self, message: Export, viewer: Post, ticket) -> None:
        try:
            folder = new_folder(self.folder)
            with left_if_filled(folder):
                export_film(ticket.result(), folder)
            film, said = self._written(folder)
        # a film without pictures, a full disk, a folder that may not be written to: say it
        except Exception as error:
            return self._say(message.id, viewer, error=str(error))
        viewer.send(*film)
        self._say(message.id, viewer, said)

    def _written(self, folder: Path) -> tuple[tuple[dict, list[bytes]], str]:
        """What a viewer is told of an exported film: a message with what it holds, and a
        sentence."""
        told = {"kind": "film", "path": str(folder), "names": list(DOWNLOADS)}
        return (told, [(folder / name).read_bytes() for name in DOWNLOADS]), f"Exported to {folder}"

    def _read_take(self, message: Watch, viewer: Post) -> None:
        try:
            bundle = self._reading.generator.bundle
            nodes = self._board.take(message.chunk)
            with TemporaryDirectory() as place:
                path = Path(place) / "take.mp4"
                ends = write_take(path, chunk_frames(self._reading, nodes), bundle)
                told = {
                    "kind": "take",
                    "of": message.id,
                    "chunks": [node.number for node in nodes],
                    "ends": ends,
                }
                viewer.send(told, [path.read_bytes()])
            self._say(message.id, viewer, self.live.readout.message)
        except Exception as error:  # a chunk that cannot be read, a full disk: say it
            self._say(message.id, viewer, error=str(error))
        finally:
            self._reading_take.release()

    # ---- the sender's thread

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                self._tell()
            except Exception as error:  # a picture that cannot be read must not end the desk
                self._say(0, self._post, error=f"{type(error).__name__}: {error}")
                self._ended.wait(1)

    def _tell(self) -> None:
        """One round: a sign of life and the view if they are due, and the newest pictures if there
        is room."""
        now = time.monotonic()
        if now - self._beaten > BEAT and now - self._heard_at < BEATING:
            self._beaten = now
            self.send({"kind": "alive"})
        if now - self._refreshed > REFRESH:
            self._refreshed, self.view = now, self._seen()
        # a busy kernel does not hear what was drawn
        late = min(self._post.late(), self._kernel.free_for())
        if self._viewed and late > UNWATCHED and self.live.readout.playing:
            self.live.pause(NOBODY).add_done_callback(lambda _done: self._post.forget())
        if not self._post.wait(TICK):
            return
        shown = self.live.latest(after=self._newest, timeout=TICK)
        now = self.live.readout
        if shown is not None:
            self._newest = shown.node
            if now.playing or shown.node == now.desk.head:
                self._show(shown)
        elif not now.playing and now.desk.head not in (None, self._on_screen):
            self._put(
                now.desk.head, node_frames(self._reading, self._board.nodes[now.desk.head])[-1:], 0
            )

    def _show(self, shown: LiveChunk) -> None:
        self._looked = shots_retrieved(shown.memory, shown.place.index)
        self._put(shown.node, shown.frames, self._gap())

    def _gap(self) -> float:
        """Seconds between two pictures; without a pace a little less than the engine takes, so that
        none is held back."""
        fps = self.about["fps"]
        return 1 / (fps * self.pace) if self.pace else 0.8 / max(self.live.readout.rate, fps)

    def _put(self, node: int, frames, gap: float) -> None:
        """Send pictures that are to be shown `gap` seconds apart."""
        self._on_screen = node
        self._post.put({"node": node, "gap": gap}, frames)

    def _hear_news(self) -> None:
        """Take in the chunks that the engine has made since."""
        while True:
            try:
                shown = self._news.get_nowait()
            except Empty:
                return
            if self._board.add(shown.place):
                self._keep(shown.node, shown.frames[0])

    def _keep(self, line: int, frame) -> None:
        self._stills[line] = jpeg(frame)
        self.send({"kind": "stills", "lines": [line]}, [self._stills[line]])

    def _seen(self) -> dict:
        """The view: the read-out first, so that the board is at least as new."""
        now = self.live.readout
        self._hear_news()
        shots = self._board.shots(now.desk.head, now.desk.cut)
        return {
            "playing": now.playing,
            "told": now.serial,
            "said": now.message,
            "error": sentence(now.error),
            "line": line_of(now),
            "chunks": now.chunks,
            "settings": to_dict(now.desk.settings)
            | {
                "policy": policy_label(now.desk.settings),
                "steps": _number(now.desk.settings.steps),
            },
            "cut": now.desk.cut,
            "shots": shots,
            "closed": self._ended.is_set(),
            "looked": memory_strip(self._looked, len(shots)),
            "earlier": list(self._board.prompts)[-EARLIER:],
            "remembering": now.remembering,
            "retake": retaken(now.desk, self._board),
        }

    # ---- the thread that opens a session again

    def _recall(self) -> None:
        """Stills of every take; one whose file cannot be read has none."""
        for line in self._board.lines:
            if self._ended.is_set():
                return
            with suppress(CinelabError):
                self._keep(line, node_frames(self._reading, self._reading.nodes[line])[0])


def sentence(text: str) -> str:
    """A refusal that begins with the name of a value begins with a capital."""
    return text[:1].upper() + text[1:] if FIRST_WORD.match(text) else text


def about(session: Session) -> dict:
    """What the browser needs to know once."""
    bundle: Bundle = session.generator.bundle
    phrases = [phrase for values in PHRASES.values() for said in values.values() for phrase in said]
    known = set(getattr(bundle.encoder, "vocabulary", ()))  # UMT5 reads any word
    return {
        "model": bundle.name,
        "size": list(bundle.size),
        "fps": bundle.fps,
        "steps": bundle.sampling.steps,
        "chunk_seconds": bundle.chunk * bundle.codec.stride / bundle.fps,
        "trained_seconds": bundle.span * bundle.codec.stride / bundle.fps,
        "examples": examples(known),
        "policies": policies(session),
        "switches": SWITCHES,
        "words": sorted(known),
        "phrases": [one for one in phrases if known.issuperset(one.split())],
        "little": sorted(LITTLE),
    }


def write_take(path: Path, chunks: Iterable[np.ndarray], bundle: Bundle) -> list[int]:
    """Write frames uint8 (f, H, W, 3) of one chunk after another as an mp4; returns how many frames
    it has after each."""
    ends = []
    with VideoWriter(path, bundle.fps, bundle.size) as film:
        for frames in chunks:
            film.add(frames)
            ends.append(film.count)
    return ends


def examples(known: set[str]) -> list[dict]:
    """Prompts that show what may be said; those that a model with a closed vocabulary knows the
    words of."""
    understood = known | LITTLE
    return [
        {"name": name, "text": text}
        for name, text in EXAMPLES.items()
        if not known or understood.issuperset(text.replace(",", "").split())
    ]


def retaken(now: Standing, board: FilmTree) -> dict | None:
    """The shot that a retake would take again, counted from 1, and with which seed; None where
    there is none."""
    again = bool(now.again) and (now.head is None or now.cut)  # one is asked for and has not begun
    if now.head is None and not again:
        return None
    before = -1 if now.head is None else board.nodes[now.head].shot
    return {"shot": before + (2 if again else 1), "seed": now.settings.seed + 1}


def policies(session: Session) -> list[str]:
    """The names that the menu offers: all known ones, and those of the session's own policies."""
    said = [session.desk.settings, *(node.settings for node in session.nodes.values())]
    return list(dict.fromkeys([*POLICIES, *map(policy_label, said)]))


def _number(steps) -> int | None:
    """What the box for the number of levels shows."""
    return (
        steps
        if isinstance(steps, int)
        else getattr(steps, "steps", None) or (len(steps) if steps else None)
    )


def line_of(now: Readout) -> str:
    """The read-out in one line; `rest` is mostly the disk."""
    if not now.causes:
        return "nothing made since the desk was opened"
    shares = [f"{NAMES[cause]} {share:.0%}" for cause, share in now.causes.items()]
    first = "" if now.first_frame is None else f"first picture {now.first_frame:.2f} s, "
    rest = max(0.0, 1 - sum(now.causes.values()))
    return f"{first}{now.rate:.0f} frames/s, {', '.join(shares)}, rest {rest:.0%}".replace(
        "%", " %"
    )


def memory_strip(layers: dict[int, dict[int, float]], shots: int) -> dict:
    """Rows of shares, a layer each, a column a shot."""
    wide = max([shots, *(shot + 1 for row in layers.values() for shot in row)], default=0)
    return {
        "rows": [[round(row.get(shot, 0.0), 3) for shot in range(wide)] for row in layers.values()]
    }


def new_folder(folder: Path) -> Path:
    """The next export-<n> in a folder; made here, so that two exports never share one."""
    for number in count(1):
        place = folder / f"export-{number}"
        if not place.exists():
            try:
                place.mkdir(parents=True)
            except OSError as error:
                raise CinelabError(
                    f"{folder} cannot be written to ({error.strerror}); the film is safe, and "
                    "cinelab.stream.export.export(film.live.session, another_folder) writes it "
                    "elsewhere."
                ) from error
            return place


@contextmanager
def left_if_filled(folder: Path) -> Iterator[None]:
    """A folder that is still empty when something fails is taken away again."""
    try:
        yield
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()
