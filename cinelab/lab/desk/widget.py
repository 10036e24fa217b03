"""The live directing desk: a widget that shows a film while it is made, and directs it.

    film = desk("results/live")      continues the film that the folder holds

Who does what, each thread on a line:

    notebook    receives the browser's messages (`receive_message`) and hands them on; never waits
    engine      makes chunks and carries out commands (`cinelab.stream.live_engine`); puts every
                finished chunk into `FilmView.new_chunks`, and answers through tickets
    sender      sends the newest frames, the view and a sign of life (`_run_sender`)
    stills      reads a frame of every take of a film that was opened again, and ends
    export      one while a film is exported (`_export_film`)
    take        one while a take is read from the disk (`_send_take`)

Frames go to the browser as messages, everything else as one small trait, `view`. This module knows
what browser and engine send each other; desk.js knows how it looks.
"""

import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakValueDictionary

import anywidget
import comm
import numpy as np
import traitlets
from IPython import get_ipython

from cinelab.lab.desk.exports import DOWNLOADS, new_export_folder, removed_if_empty, write_take
from cinelab.lab.desk.film_view import FilmView
from cinelab.lab.desk.frame_channel import FrameChannel, FrameSink, MessageChannel
from cinelab.lab.desk.kernel import KernelActivity
from cinelab.lab.desk.messages import (
    Do,
    Export,
    FramesDrawn,
    Hello,
    InvalidMessage,
    Message,
    Watch,
    parse_message,
)
from cinelab.lab.desk.page import bundled_script, style
from cinelab.lab.desk.view import desk_facts, sentence
from cinelab.limits import RATE, check_number, short
from cinelab.memory.policy import Policy
from cinelab.script.prompts import UnknownWords
from cinelab.stream.batch import named_policy
from cinelab.stream.commands import Settings
from cinelab.stream.export import export_film, snapshot
from cinelab.stream.fair_lock import FairLock
from cinelab.stream.film_tree import chunk_frames
from cinelab.stream.live_engine import LiveEngine
from cinelab.stream.readout import UNBOUNDED, FilmBounds
from cinelab.stream.session import Session
from cinelab.zoo.bundle import Bundle
from cinelab.zoo.checkpoints import load

TICK = 1 / 16  # seconds that the sender waits for anything
REFRESH = 1 / 8  # seconds between two refreshed views, at least
# chunks that the engine may be before the clock: what is made cannot be directed any more
AHEAD = 0.5
# of a first film: of the seeds 0 to 31 the one with the clearest first shots of the examples
SEED = 24
BEAT = 2.0  # seconds between two signs of life; a view that misses a few takes the kernel for dead
# seconds that they go on after the last message of a view, which a busy kernel cannot receive
BEATING = 3600.0
UNWATCHED = 5.0  # seconds that frames may be late at every view before the film pauses by itself
NOBODY = "Paused: nobody was watching. Play continues."
# one desk a folder: a cell that is run again takes over
OPEN: "WeakValueDictionary[Path, DeskWidget]" = WeakValueDictionary()

ExportReply = tuple[dict, list[bytes], str]  # a message, its buffers, and a sentence


def desk(
    folder: str | Path,
    model: str = "toybox-2step",
    seed: int = SEED,
    *,
    policy: str | Policy | None = None,
    budget: int | None = None,
    pace: float | None = 1.0,
) -> "DeskWidget":
    """Open a desk, paused, on the session in `folder`; begin a session where there is none.

    pace      films a film: 1 = as fast as it plays; None = as fast as the model can
    policy    None = the one that the model was trained under (see `policy_for`)
    """
    folder = Path(folder).resolve()
    if pace is not None:
        check_number("pace", pace, above=0, most=RATE, whole=False)
    if folder in OPEN:
        OPEN[folder].close()
    with ExitStack() as resources:
        session = open_or_create_session(folder, model, seed, policy=policy, budget=budget)
        resources.callback(session.close)
        OPEN[folder] = made = DeskWidget(session, pace, resources=resources.pop_all())
    return made


def open_or_create_session(
    folder: Path,
    model: str | Bundle,
    seed: int = SEED,
    *,
    policy: str | Policy | None = None,
    budget: int | None = None,
) -> Session:
    """Continue the session of a folder, which has settings of its own, or begin one there under a
    seed and a policy."""
    bundle = load(model) if isinstance(model, str) else model
    if (folder / "session.json").exists():
        return Session.resume(folder, bundle)
    name, units = named_policy(bundle, policy, budget)
    return Session.create(folder, bundle, Settings(seed=seed, policy=name, budget=units))


class DeskWidget(anywidget.AnyWidget):
    """The widget that `desk(...)` makes.

    It receives the messages of `cinelab.lab.desk.messages`, and sends frames, stills, answer, film,
    take and alive.
    """

    # As text: with a path, anywidget would keep every desk alive, to reload a changed file.
    _esm = bundled_script()
    _css = style()
    about = traitlets.Dict().tag(sync=True)  # what never changes
    view = traitlets.Dict().tag(sync=True)  # all that a new view needs to look like the others

    def __init__(
        self,
        session: Session,
        pace: float | None = 1.0,
        *,
        resources: ExitStack | None = None,
        turns: FairLock | None = None,
        bounds: FilmBounds = UNBOUNDED,
    ):
        super().__init__(about=desk_facts(session))
        # the page itself names unknown words, beside the prompt box
        warnings.simplefilter("ignore", UnknownWords)
        self.folder = session.folder
        self.pace = pace
        self._resources = resources or ExitStack()
        self._film = FilmView(snapshot(session), self.send)
        self._newest: int | None = None  # chunk last taken from the engine's mailbox
        self._on_screen: int | None = None  # chunk last sent
        self._has_views = False
        # times, by time.monotonic()
        self._view_sent = 0.0
        self._alive_sent = 0.0
        self._last_message = time.monotonic()
        self._ended = threading.Event()
        self._take_lock = threading.Lock()
        self._channel: FrameSink = self._make_channel()
        self._kernel = self._follow_kernel()
        ahead = AHEAD * self.about["chunk_seconds"]
        self.live = LiveEngine(
            session, pace, self._film.new_chunks.put, bounds=bounds, ahead=ahead, turns=turns
        )
        self.view = self.current_view()
        self.on_msg(self._receive_comm)
        self._threads = [
            threading.Thread(target=self._run_sender, daemon=True),
            threading.Thread(target=self._film.load_stills, args=(self._ended,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the engine after the running chunk and release the folder, where everything stays."""
        # a desk that could not be begun has no event
        if not hasattr(self, "_ended") or self._ended.is_set():
            return
        self._ended.set()
        self.live.close()
        self._kernel.stop()
        for thread in self._threads:
            thread.join(2)
        self._resources.close()
        self.view = self.current_view()
        self.unobserve_all()
        self._unregister()

    def _unregister(self) -> None:
        """Take the desk from the registries of widgets and comms, which would keep the film and its
        KV cache for ever. No `comm_close` is sent: the page would remove the view, which is to say
        that the desk is closed."""
        if self.comm is not None:
            comm.get_comm_manager().unregister_comm(self.comm)
            self.comm._closed = True
        super().close()

    def _make_channel(self) -> FrameSink:
        """Return where frames go to: here all views of the notebook."""
        return FrameChannel(self.send)

    def _follow_kernel(self) -> KernelActivity:
        """Return what may keep the browser's messages from us: here the notebook's cells."""
        return KernelActivity(get_ipython())

    # ---- the notebook's thread: messages of the browser; nothing here waits

    def _receive_comm(self, _widget: Any, content: dict, _buffers: Any) -> None:
        self.receive_message(content, self._channel)

    def receive_message(
        self,
        content: Any,
        viewer: MessageChannel,
        parse: Callable[[Any], Message] = parse_message,
    ) -> None:
        """Handle a viewer's message. An invalid one is answered with a sentence where it has a
        number, and ignored otherwise."""
        self._last_message = time.monotonic()
        try:
            message = parse(content)
        except InvalidMessage as error:
            if error.id is not None:
                self._reply(error.id, viewer, error=str(error))
            return
        match message:
            case Hello():
                self._on_hello(viewer)
            case FramesDrawn():
                viewer.acknowledge(message.number)
            case Do():
                self._on_command(message, viewer)
            case Export():
                self._on_export(message, viewer)
            case Watch():
                self._on_watch(message, viewer)

    def _on_hello(self, viewer: MessageChannel) -> None:
        """Send a new view every still; the sender then sends the frames where the film stands."""
        stills = dict(self._film.stills)  # other threads add to it
        viewer.send({"kind": "stills", "lines": list(stills)}, list(stills.values()))
        self._has_views = True
        self._newest = None
        self._on_screen = None
        viewer.reset()

    def _on_command(self, message: Do, viewer: MessageChannel) -> None:
        """Hand a command to the engine; with `play` the film plays once it is carried out. A
        browser names only policies of the menu."""
        policy = message.value["value"] if message.command == "policy" else None
        if policy is not None and policy not in self.about["policies"]:
            known = ", ".join(self.about["policies"])
            error = f"policy is {short(policy)}; use one of {known}."
            return self._reply(message.id, viewer, error=error)
        ticket = self.live.send(message.command, **message.value)
        ticket.add_done_callback(lambda done: self._reply_to_command(message, viewer, done))
        if message.play:
            ticket.add_done_callback(lambda done: self._play_after(message, viewer, done))

    def _play_after(self, message: Do, viewer: MessageChannel, done: "Future[str]") -> None:
        if done.exception() is None:
            self._on_command(Do(message.id, "resume"), viewer)

    def _on_export(self, message: Export, viewer: MessageChannel) -> None:
        """Export what there is now. The film goes on meanwhile: the engine only hands over a copy
        of the session."""

        def begin(ticket: "Future[Session]") -> None:
            threading.Thread(
                target=self._export_film, args=(message, viewer, ticket), name="cinelab-export"
            ).start()

        self.live.call(snapshot).add_done_callback(begin)

    def _on_watch(self, message: Watch, viewer: MessageChannel) -> None:
        """Send a shot up to a chunk as a small film read from the disk; the session and its head
        stay as they are."""
        if message.chunk not in self._film.tree.nodes:
            error = f"chunk {message.chunk} is not in this session."
            return self._reply(message.id, viewer, error=error)
        if not self._take_lock.acquire(blocking=False):
            error = "Another take is being read; try again in a moment."
            return self._reply(message.id, viewer, error=error)
        threading.Thread(
            target=self._send_take, args=(message, viewer), name="cinelab-take", daemon=True
        ).start()

    # ---- replies, from whichever thread has them

    def _reply_to_command(self, message: Do, viewer: MessageChannel, ticket: "Future[str]") -> None:
        error = ticket.exception()
        if error is not None:
            self._reply(message.id, viewer, error=str(error))
        else:
            self._reply(message.id, viewer, ticket.result())

    def _reply(self, id: int, viewer: MessageChannel, text: str = "", *, error: str = "") -> None:
        now = self.live.readout
        viewer.send(
            {
                "kind": "answer",
                "id": id,
                "message": text,
                "error": sentence(error),
                "playing": now.playing,
                "revision": now.serial,
                "next": now.chunks,
            }
        )

    def _export_film(
        self, message: Export, viewer: MessageChannel, ticket: "Future[Session]"
    ) -> None:
        try:
            folder = new_export_folder(self.folder)
            with removed_if_empty(folder):
                export_film(ticket.result(), folder)
            content, buffers, text = self._export_reply(folder)
        # a film without frames, a full disk, a folder that may not be written to
        except Exception as error:
            return self._reply(message.id, viewer, error=str(error))
        viewer.send(content, buffers)
        self._reply(message.id, viewer, text)

    def _export_reply(self, folder: Path) -> ExportReply:
        """Return what a viewer receives of an exported film."""
        content = {"kind": "film", "path": str(folder), "names": list(DOWNLOADS)}
        buffers = [(folder / name).read_bytes() for name in DOWNLOADS]
        return content, buffers, f"Exported to {folder}"

    def _send_take(self, message: Watch, viewer: MessageChannel) -> None:
        try:
            nodes = self._film.take(message.chunk)
            with TemporaryDirectory() as place:
                path = Path(place) / "take.mp4"
                frames = chunk_frames(self._film.on_disk, nodes)
                ends = write_take(path, frames, self._film.on_disk.generator.bundle)
                content = {
                    "kind": "take",
                    "of": message.id,
                    "chunks": [node.number for node in nodes],
                    "ends": ends,
                }
                viewer.send(content, [path.read_bytes()])
            self._reply(message.id, viewer, self.live.readout.message)
        except Exception as error:  # a chunk that cannot be read, a full disk
            self._reply(message.id, viewer, error=str(error))
        finally:
            self._take_lock.release()

    # ---- the sender's thread

    def _run_sender(self) -> None:
        while not self._ended.is_set():
            try:
                self._send_what_is_due()
            except Exception as error:  # a chunk that cannot be read must not end the desk
                self._reply(0, self._channel, error=f"{type(error).__name__}: {error}")
                self._ended.wait(1)

    def _send_what_is_due(self) -> None:
        """Send a sign of life and the view if they are due, and the newest frames if there is
        room."""
        now = time.monotonic()
        if now - self._alive_sent > BEAT and now - self._last_message < BEATING:
            self._alive_sent = now
            self.send({"kind": "alive"})
        if now - self._view_sent > REFRESH:
            self._view_sent = now
            self.view = self.current_view()
        self._pause_if_unwatched()
        if self._channel.wait_for_room(TICK):
            self._send_newest()

    def _pause_if_unwatched(self) -> None:
        # a busy kernel does not receive what was drawn
        late = min(self._channel.seconds_late(), self._kernel.free_for())
        if self._has_views and late > UNWATCHED and self.live.readout.playing:
            self.live.pause(NOBODY).add_done_callback(lambda _done: self._channel.reset())

    def _send_newest(self) -> None:
        """Send the newest chunk; of a paused film whose head has moved, the head's last frame."""
        shown = self.live.latest(after=self._newest, timeout=TICK)
        now = self.live.readout
        head = now.desk.head
        if shown is not None:
            self._newest = shown.node
            if now.playing or shown.node == head:
                self._film.note_attended(shown)
                self._send_frames(shown.node, shown.frames, self._frame_seconds())
        elif not now.playing and head is not None and head != self._on_screen:
            self._send_frames(head, self._film.last_frame(head), 0)

    def _frame_seconds(self) -> float:
        """Return the seconds between two frames; without a pace a little less than the engine
        takes, so that no frame is held back."""
        fps = self.about["fps"]
        return 1 / (fps * self.pace) if self.pace else 0.8 / max(self.live.readout.rate, fps)

    def _send_frames(self, node: int, frames: np.ndarray, gap: float) -> None:
        """Send frames uint8 (f, H, W, 3) that are to be shown `gap` seconds apart."""
        self._on_screen = node
        self._channel.send_frames({"node": node, "gap": gap}, frames)

    def current_view(self) -> dict:
        """Return the view as plain values."""
        return self._film.values(self.live.readout, closed=self._ended.is_set())
