"""Rows of results: JSON lines, each written as soon as it is measured, so that a section that is
cut leaves what it had."""

import gc
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cinelab.errors import CinelabError
from cinelab.files import append_line

LONGEST = 300  # characters of an error


@dataclass(frozen=True)
class Recorder:
    """Writes the rows of one section."""

    path: Path
    section: str

    def note(self, name: str, value: Any, unit: str = "", **more: Any) -> None:
        """Write one figure. `more` is what it has to be read beside: `asks` (the settings that the
        ledger predicts it from), `wanted`, `ok`, `error`."""
        row = {"section": self.section, "name": name, "value": value, "unit": unit} | more
        append_line(self.path, row, sync=False)
        shown = more.get("error") or f"{value:.5g} {unit}" if isinstance(value, float) else value
        print(f"{name}: {more.get('error', shown)}", flush=True)

    def check(self, name: str, difference: float, most: float, **more: Any) -> None:
        """Write a difference beside the largest that is allowed (0 = equal to the bit)."""
        self.note(name, float(difference), "", wanted=most, ok=bool(difference <= most), **more)

    def failed(self, name: str, error: BaseException) -> None:
        """Write why there is no figure: a sentence of ours, or an error and where it was raised."""
        self.note(name, None, error=sentence(error), refused=isinstance(error, CinelabError))

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """Record an error of what is inside and go on; the device's memory is free afterwards."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:  # whatever it is, the other figures of the section count
            if not isinstance(error, CinelabError):
                traceback.print_exc()
            self.failed(name, error)
        finally:
            release()
            print(f"  ({name}: {time.perf_counter() - began:.1f} s)", flush=True)


def sentence(error: BaseException) -> str:
    """Return an error as one line of at most LONGEST characters."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory on the device ({text})"[:LONGEST]
    if isinstance(error, CinelabError):
        return text[:LONGEST]
    return f"{type(error).__name__}: {text}"[:LONGEST]


def release() -> None:
    """Give back what the last measurement held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
