"""The sitting: sections one after another, each a process with its own limit; the training films
and the ledger's predictions beside them. Results are written after each section."""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen, TimeoutExpired

from benchmarks.gpu_bench import predictions, processes, toy_films
from benchmarks.gpu_bench.archive import pack
from benchmarks.gpu_bench.jobs import QueuedJob
from benchmarks.gpu_bench.machine import cores
from benchmarks.gpu_bench.record import sentence
from benchmarks.gpu_bench.schedule import LEAST, RESERVE, Slot
from benchmarks.gpu_bench.sections import TRAINING, Section
from benchmarks.gpu_bench.summary import all_hold, not_measured, rows_of, write_summary
from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.files import read_lines, write_json

DONE = "done"
OFTEN = 15.0  # seconds after which a section that runs says how far it is
STOPS = (signal.SIGINT, signal.SIGTERM)
CARDS = ("H200", "H100", "B200", "5090", "4090")  # as the ledger calls them


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    seconds: float
    folder: Path  # what comes back
    work: Path
    rehearsed: bool
    official: Path | None = None
    queue: Path | None = None
    starts: Path | None = None


@dataclass
class Sitting:
    """One run of the schedule."""

    settings: Settings
    machine: dict
    slots: Sequence[Slot]
    plan: str
    jobs: Sequence[QueuedJob]
    say: Callable[[str], None] = print
    outcomes: dict[str, dict] = field(default_factory=dict)
    running: Popen | None = None
    builders: toy_films.Builders | None = None
    predictor: Popen | None = None

    def run(self) -> None:
        """Run the sections. Whatever ends it early, what is there is summed up and packed."""
        end = time.monotonic() + self.settings.seconds
        self.outcomes = earlier(self.settings.work)
        previous = {one: signal.getsignal(one) for one in STOPS}
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            self._render_films()
            for slot in self.slots:
                self._one(slot, end)
                self._write()
                self._predict()
        except KeyboardInterrupt:
            self.say("interrupted: what is there is packed")
        finally:
            for one in STOPS:  # who is impatient must not lose what was measured
                signal.signal(one, signal.SIG_IGN)
            self._end_all()
            self._write()
            for one, handler in previous.items():
                signal.signal(one, handler)

    @property
    def holds(self) -> bool:
        """Whether every check holds and nothing failed."""
        return all_hold(rows_of(self.settings.work), list(self.outcomes.values()))

    def _one(self, slot: Slot, end: float) -> None:
        section = slot.section
        done = self.outcomes.get(section.name, {}).get("state") == DONE
        if done and section.name != TRAINING:  # whose jobs know themselves what is left of them
            return self.say(f"{section.name}: done before")
        if slot.left_out:
            return self._note(section, "left out", slot.left_out)
        left = end - time.monotonic() - RESERVE * (not self.settings.rehearsed)
        least = LEAST if section.name == TRAINING else slot.expected / 2
        if left < least and not self.settings.rehearsed:
            why = f"it needs {slot.expected:.0f} s and {max(left, 0):.0f} s were left"
            return self._note(section, "left out", why)
        if section.name == TRAINING:
            self._wait_for_films(left)
            left = end - time.monotonic() - RESERVE * (not self.settings.rehearsed)
        limit = min(slot.limit, left) if not self.settings.rehearsed else slot.limit
        self._measure(section, limit)

    def _measure(self, section: Section, limit: float) -> None:
        """Run a section's process until it ends or its limit comes."""
        self.say(f"{section.name}: at most {limit:.0f} s")
        rows = self._rows(section)
        rows.parent.mkdir(parents=True, exist_ok=True)
        rows.unlink(missing_ok=True)
        log = self.settings.work / "logs" / f"{section.name}.log"
        if section.quiet and self.builders:
            self.builders.pause()
        began = time.monotonic()
        self.running = processes.start(self._command(section, limit), log, self._environment())
        try:
            code = self._ended(self.running, section, limit, rows)
            state, why = ended(code, rows, log)
        except TimeoutExpired:
            state = "cut"
            why = f"its limit of {limit:.0f} s came; what it had written counts"
        finally:
            processes.stop(self.running)
            self.running = None
            if self.builders:
                self.builders.resume()
        self._note(section, state, why, time.monotonic() - began)

    def _ended(self, running: "Popen[bytes]", section: Section, limit: float, rows: Path) -> int:
        """Return the exit code of the running process, saying now and then how far it is. Raises
        TimeoutExpired after `limit` seconds."""
        began = time.monotonic()
        while True:
            left = limit - (time.monotonic() - began)
            try:
                return running.wait(min(left, OFTEN))
            except TimeoutExpired:
                if left <= OFTEN:
                    raise
            spent = time.monotonic() - began
            self.say(f"{section.name}: {figures_in(read_lines(rows))} after {spent:.0f} s")

    def _command(self, section: Section, limit: float) -> list[str]:
        settings = self.settings
        module = "benchmarks.gpu_bench.one"
        words = [sys.executable, "-m", module, section.name, "--work", str(settings.work)]
        words += ["--seconds", f"{limit - 5 if limit > 30 else limit:.0f}"]
        words += ["--rehearse"] * settings.rehearsed
        for name in ("official", "queue", "starts"):
            if value := getattr(settings, name):
                words += [f"--{name}", str(Path(value).resolve())]
        return words

    def _rows(self, section: Section) -> Path:
        return self.settings.work / "rows" / f"{section.name}.jsonl"

    def _environment(self) -> dict[str, str]:
        # a rehearsal compiles nothing: that would take minutes on a CPU and show nothing
        alone = {"TORCHDYNAMO_DISABLE": "1", "CINELAB_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        return alone if self.settings.rehearsed else {}

    def _note(self, section: Section, state: str, why: str, seconds: float | None = None) -> None:
        self.outcomes[section.name] = {
            "name": section.name,
            "state": state,
            "seconds": seconds,
            "why": why,
        }
        ran = figures_in(read_lines(self._rows(section))) if seconds is not None else ""
        self.say(", ".join(filter(None, [f"{section.name}: {state}", ran, why])))

    def _write(self) -> None:
        """Write state, summary and archive of what is there. Where that fails, such as on a full
        disk, it is said, and the sections go on."""
        try:
            self._sum_up()
        except (CinelabError, OSError) as error:
            self.say(f"the summary or the archive is not written yet: {sentence(error)}")

    def _sum_up(self) -> None:
        settings = self.settings
        write_json(settings.work / "state.json", {"sections": list(self.outcomes.values())})
        summed = list(self.outcomes.values())
        settings.folder.mkdir(parents=True, exist_ok=True)
        write_summary(settings.work, settings.folder, self.machine, outcomes=summed, plan=self.plan)
        parts, left_out = pack(settings.work, settings.folder)
        if left_out:
            self.say(f"{len(left_out)} files did not fit into the archive: {left_out[0]}, ...")

    def _predict(self) -> None:
        """Have the ledger predict what was measured since; a rehearsal's figures are no card's."""
        if self.settings.rehearsed:
            return
        busy = self.predictor is not None and self.predictor.poll() is None
        if busy or not predictions.missing(self.settings.work, rows_of(self.settings.work)):
            return
        device = str(self.machine.get("device"))
        card = next((name for name in CARDS if name in device), "H100")
        module = "benchmarks.gpu_bench.predictions"
        words = [sys.executable, "-m", module, str(self.settings.work), "--card", card]
        log = self.settings.work / "logs" / "predictions.log"
        self.predictor = processes.start(words, log, toy_films.ONE_THREAD, nice=True)

    def _render_films(self) -> None:
        """Begin the training films beside the sections, where cores are free."""
        trains = any(slot.section.name == TRAINING and not slot.left_out for slot in self.slots)
        if not trains:
            return
        count = 1 if self.settings.rehearsed else toy_films.builders_for(cores())
        films = self.jobs[0].store
        folder = self.settings.work / "training" / films.name
        self.builders = toy_films.Builders(folder, films, count)
        self.builders.begin(self.settings.work / "logs" / "films.log")

    def _wait_for_films(self, left: float) -> None:
        """Wait until there are enough films, on all cores, and end their rendering."""
        made = self.builders
        if made is None or not made.running:
            return
        rehearsed = self.settings.rehearsed
        until = time.monotonic() + (120 if rehearsed else left * toy_films.SHARE)
        if toy_films.films_in(made.folder, made.films) < toy_films.ENOUGH and not rehearsed:
            made.end()
            made.count = cores()
            made.begin(self.settings.work / "logs" / "films.log")
        while not made.done and time.monotonic() < until:
            if toy_films.films_in(made.folder, made.films) >= toy_films.ENOUGH:
                break
            time.sleep(0.1)
        made.end()

    def _end_all(self) -> None:
        if self.running is not None:
            processes.stop(self.running)
        if self.builders is not None:
            self.builders.end()
        if self.predictor is not None:
            with suppress(TimeoutExpired):
                self.predictor.wait(RESERVE / 3)
            processes.stop(self.predictor)


def earlier(work: Path) -> dict[str, dict]:
    """Return how the sections of an earlier sitting in the same folder ended."""
    path = work / "state.json"
    found = read_mapping(path).get("sections", []) if path.exists() else []
    return {one["name"]: one for one in found}


def figures_in(rows: Sequence[dict]) -> str:
    """Return how many figures these rows are: "43 figures, 1 failed, 9 refused"."""
    return f"{sum(not row.get('error') for row in rows)} figures{not_measured(rows)}"


def ended(code: int, rows: Path, log: Path) -> tuple[str, str]:
    """Return the state of a section whose process ended by itself, and what is to say of it."""
    if code:
        how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
        return "failed", f"{how}: {processes.tail(log)}"
    wrote = rows.exists() and rows.stat().st_size > 0
    return (DONE, "") if wrote else ("failed", f"no figure: {processes.tail(log)}")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
