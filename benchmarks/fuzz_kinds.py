"""What `benchmarks/fuzz.py` attacks. A kind makes examples, each a small folder of files, and runs
one.

Running an example ends, raises a CinelabError, or has found a fault: any other exception, or an
assertion of this file (what was accepted must be accepted again; a refusal is one short sentence).
"""

import dataclasses
import importlib
import io
import json
import os
import pkgutil
import sys
import types
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pandas as pd
import torch

import cinelab
from benchmarks.mutate import junk, spoilt_bytes, spoilt_folder, spoilt_text, spoilt_value
from cinelab.config import read_as, to_dict
from cinelab.errors import CinelabError
from cinelab.files import write_json

ROOT = Path(__file__).parents[1]
Files = dict[str, bytes]
MOST = 2000  # characters of a refusal


@dataclasses.dataclass(frozen=True)
class Kind:
    """`make(rng)` returns an example; `run(folder)` tries the example whose files lie in
    `folder`."""

    make: Callable[[Random], Files]
    run: Callable[[Path], Any]


KINDS: dict[str, Kind] = {}


def kind(make: Callable[[Random], Files]) -> Callable:
    """Register a run under its name."""

    def register(run: Callable[[Path], Any]) -> Callable[[Path], Any]:
        KINDS[run.__name__] = Kind(make, run)
        return run

    return register


def attempt(name: str, files: Files, folder: Path) -> bool:
    """Try an example in an empty folder; whether it was taken. Raises what is a fault."""
    for place, data in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            KINDS[name].run(folder)
    except CinelabError as error:
        message = str(error)
        assert message.strip() and len(message) < MOST, (
            f"a refusal of {len(message)} characters: {message[:300]}"
        )
        return False
    return True


def read_folder(folder: Path) -> Files:
    """A folder's files, by their path in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@cache
def made(build: Callable[[Path], Any]) -> Files:
    """The files that a builder leaves, made once a process."""
    with TemporaryDirectory() as folder:
        build(Path(folder))
        return {
            name: data
            for name, data in read_folder(Path(folder)).items()
            if not Path(name).name.startswith(".lock")
        }


# ---- screenplays, sweeps, trainings

PLAYS = [
    path.read_bytes() for path in sorted((ROOT / "experiments" / "screenplays").glob("*.yaml"))
] + [
    b"""title: t
seed: 7
caption: a film
shots:
  - {prompt: a red cat waves, seconds: 2, policy: {kind: CAMR, budget: 4}, steps: [1.0, 0.6, 0.3]}
  - prompt: it sits
    seconds: 3
    cut: continue
    budget: 5
    changes:
      - {at: 1, prompt: it jumps, seed: 8, steps: 4, recache: true}
      - {at: 2, prompt: x, policy: full, steps: {steps: 4, solver: euler}}
"""
]
SWEEPS = [path.read_bytes() for path in sorted((ROOT / "experiments").glob("*.yaml"))]
JOBS = [
    b"""stage: teacher_forcing
run: r
store: {kind: noise, path: 6x8x24}
preset: smoke
changes:
  {loss: mse, camr: {kind: CAMR, budget: 4}, camr_share: 1.0, steps: 2, optim.lr: 1e-3,
   model.num_layers: 2}
layout: {parts: 2, recompute: true}
export: out
export_dtype: bf16
""",
    b"""{"stage": "dmd", "run": "r", "store": {"kind": "toybox", "path": "s", "begin": "film"},
 "teacher": "toybox-base", "init": "toybox-4step",
 "lora": {"rank": 4, "alpha": 8.0, "targets": ["to_q"]},
 "changes": {"lengths": [12], "chunk": 3, "sampling.steps": 2}, "seed": 3}""",
]


def one_file(name: str, texts: list[bytes]) -> Callable[[Random], Files]:
    return lambda rng: {name: spoilt_text(rng.choice(texts), rng)}


@kind(one_file("film.yaml", PLAYS))
def screenplay(folder: Path) -> None:
    from cinelab.script.screenplay import Screenplay
    from cinelab.script.timeline import plan

    play = Screenplay.load(folder / "film.yaml")
    assert Screenplay.parse(play.to_yaml()) == play, "what was accepted is read back otherwise"
    plan(play, 8.0, 2, 3)


@kind(one_file("sweep.yaml", SWEEPS))
def sweep(folder: Path) -> None:
    from cinelab.lab.sweeps.grid import expand, load_sweep

    expand(load_sweep(folder / "sweep.yaml"))


@kind(one_file("run.yaml", JOBS))
def job(folder: Path) -> None:
    from cinelab.jobs.job import load_job

    found = load_job(folder / "run.yaml")
    to_dict(found.config)


# ---- settings

PLAIN = (int, float, str, bool, type(None), Any)


def is_plain(hint: Any, inside: tuple = ()) -> bool:
    """Whether values of a type can be written down."""
    if hint in PLAIN or hint in inside:
        return True
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        return all(
            is_plain(hints[field.name], (*inside, hint))
            for field in dataclasses.fields(hint)
            if field.init
        )
    if get_origin(hint) is Literal:
        return True
    return (get_origin(hint) or hint) in (Union, types.UnionType, tuple, list, dict) and all(
        is_plain(part, inside) for part in get_args(hint) if part is not Ellipsis
    )


@cache
def settings_classes() -> dict[str, type]:
    """Every dataclass of the package that plain values can make, by its import path."""
    found = {}
    for module in pkgutil.walk_packages(cinelab.__path__, "cinelab."):
        if ".workers" in module.name or module.name.endswith("__main__"):
            continue
        for name, cls in vars(importlib.import_module(module.name)).items():
            try:
                if (
                    isinstance(cls, type)
                    and dataclasses.is_dataclass(cls)
                    and cls.__module__ == module.name
                    and is_plain(cls)
                ):
                    found[f"{module.name}:{name}"] = cls
            except (NameError, TypeError):  # a type that is only known to type checkers
                continue
    return found


NAMES = [
    "x",
    "camr",
    "truth",
    "noisy",
    "cut",
    "random",
    "consistency",
    "euler",
    "smoke",
    "dmd",
    "teacher_forcing",
    "noise",
    "1x1x1",
    "uniform",
    "l1",
    "mse",
    "autoregressive",
    "bidirectional",
    "fp32",
    "int8",
    "full",
    "keep",
    "film",
    "device",
    "host",
]


def value_of(hint: Any, rng: Random, depth: int = 0) -> Any:
    """A value that a type may take, or, now and then, anything."""
    origin = get_origin(hint) or hint
    inner = get_args(hint)
    if rng.random() < 0.12 or depth > 5 or hint is Any:
        return junk(rng)
    if dataclasses.is_dataclass(hint):
        return fields_of(hint, rng, depth + 1)
    if origin in (Union, types.UnionType, Literal):
        chosen = rng.choice(inner)
        return chosen if origin is Literal else value_of(chosen, rng, depth)
    if origin in (tuple, list) and inner:
        many = [inner[0]] * rng.randrange(4) if Ellipsis in inner or origin is list else inner
        return [value_of(part, rng, depth + 1) for part in many]
    if origin is dict:
        return {
            rng.choice(["a", "steps", "optim.lr", "chunk"]): junk(rng)
            for _ in range(rng.randrange(3))
        }
    if hint is int:
        return rng.choice((0, 1, 2, 3, 4, 5, 6, 12, 16, 24, 48, 64, 100, 1000, 10**6, -1))
    if hint is float:
        return rng.choice((0.0, 1.0, 0.5, 0.25, 0.1, 0.9, 8.0, 24.0, -1.0, 1e-5, 1e30))
    return rng.choice(NAMES) if hint is str else junk(rng)


def fields_of(cls: type, rng: Random, depth: int = 0) -> dict:
    hints = get_type_hints(cls)
    found = {}
    for field in dataclasses.fields(cls):
        needed = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if field.init and rng.random() < (0.97 if needed else 0.3):
            found[field.name] = value_of(hints[field.name], rng, depth)
    return found | ({rng.choice(["kind", "name", "zzz"]): junk(rng)} if rng.random() < 0.04 else {})


def some_settings(rng: Random) -> Files:
    path = rng.choice(list(settings_classes()))
    values = fields_of(settings_classes()[path], rng) if rng.random() < 0.95 else junk(rng)
    return {"class.txt": path.encode(), "values.json": json.dumps(values).encode()}


@kind(some_settings)
def settings(folder: Path) -> None:
    cls = settings_classes()[(folder / "class.txt").read_text()]
    read_as(cls, folder / "values.json")


# ---- sessions, commands, messages


@cache
def toybox() -> Any:
    from cinelab.zoo.checkpoints import load

    return load("toybox-1step")


def build_session(folder: Path) -> None:
    from cinelab.stream.session import Session, Settings

    session = Session.create(
        folder / "film",
        toybox(),
        Settings("wide shot of a red cat that waves in the meadow by day"),
    )
    session.step()
    session.do("cut", text="close shot of a blue robot that dances in the city at night")
    session.step()
    session.do("policy", value="full")
    session.step()
    session.do("branch", chunk=0)
    session.step()
    session.close()


@kind(lambda rng: spoilt_folder(made(build_session), rng))
def session(folder: Path) -> None:
    from cinelab.stream.session import Session

    found = Session.read(folder / "film", toybox())
    found.frames()
    found.state(found.desk.head)


COMMANDS = [
    ("prompt", {"text": "a cat", "switch": "cut"}),
    ("prompt", {"text": "a dog", "switch": None}),
    ("cut", {"text": "a cat"}),
    ("cut", {}),
    ("retake", {"seed": 3}),
    ("retake", {}),
    ("branch", {"chunk": 0}),
    ("seed", {"value": 5}),
    ("policy", {"value": "full"}),
    ("policy", {"value": {"kind": "CAMR", "budget": 4}}),
    ("budget", {"value": 5}),
    ("levels", {"value": 2}),
    ("levels", {"value": [1.0, 0.5]}),
    ("levels", {"value": None}),
    ("switch", {"value": "recache"}),
    ("pause", {}),
    ("resume", {}),
    ("undo", {}),
]


def some_commands(rng: Random) -> Files:
    lines = []
    for _ in range(rng.randint(1, 6)):
        command, value = rng.choice(COMMANDS)
        if rng.random() < 0.6:
            value = spoilt_value(value, rng)
        lines.append([junk(rng) if rng.random() < 0.03 else command, value])
    return {"commands.json": json.dumps(lines).encode()} | made(build_session)


@kind(some_commands)
def commands(folder: Path) -> None:
    """Whatever commands are taken, the session that they leave can be read again and exported."""
    from cinelab.stream.session import Session

    found = Session.resume(folder / "film", toybox())
    try:
        for command, value in json.loads((folder / "commands.json").read_bytes()):
            try:
                found.do(
                    command,
                    **{str(key): item for key, item in value.items()}
                    if isinstance(value, dict)
                    else {"value": value},
                )
            except CinelabError:
                continue
        again = Session.read(folder / "film", toybox())
        assert dataclasses.replace(again.desk, playing=False) == dataclasses.replace(
            found.desk, playing=False
        ), "the log tells of another desk"
    finally:
        found.close()


def some_message(rng: Random) -> Files:
    command, value = rng.choice(COMMANDS)
    message = rng.choice(
        (
            {"kind": "hello"},
            {"kind": "drawn", "number": 3},
            {"kind": "export", "id": 4},
            {"kind": "do", "id": 1, "command": command, "value": value, "play": True},
        )
    )
    if rng.random() < 0.3:
        return {"message.json": spoilt_bytes(json.dumps(message).encode(), rng)}
    return {"message.json": json.dumps(spoilt_value(message, rng)).encode()}


@kind(some_message)
def message(folder: Path) -> None:
    from cinelab.lab.desk.messages import read_message

    read_message((folder / "message.json").read_bytes().decode(errors="replace"))


# ---- checkpoints, runs, stores


def some_checkpoint(rng: Random) -> Files:
    data = (ROOT / "cinelab/checkpoints/toybox-1step/config.json").read_bytes()
    return {"model/config.json": spoilt_folder({"config.json": data}, rng).get("config.json", b"")}


@kind(some_checkpoint)
def checkpoint(folder: Path) -> None:
    from cinelab.zoo.checkpoints import load

    (folder / "model" / "weights.safetensors").symlink_to(
        ROOT / "cinelab/checkpoints/toybox-1step/weights.safetensors"
    )
    load(folder / "model")


@kind(
    lambda rng: spoilt_folder(
        {
            "cinelab.json": json.dumps(
                {
                    "chunk": 1,
                    "size": [64, 96],
                    "sampling": {"steps": 2},
                    "dtype": "fp32",
                    "policy": {"kind": "CAMR", "budget": 4},
                    "reach": "span",
                    "fps": 16.0,
                    "prompt_cache": "prompts",
                    "weights": "x.pt",
                }
            ).encode()
        },
        rng,
    )
)
def wan_settings(folder: Path) -> None:
    from cinelab.zoo.wan import settings_of

    settings_of(folder)


def build_run(folder: Path) -> None:
    from cinelab.runs import Run
    from cinelab.train.optim import Optim

    run = Run(folder / "run", Optim())
    run.trains_on({"path": "films", "films": 3, "mark": "abc"})
    for step in range(3):
        run.log(step=step, loss=1.5)
    run.save(2, net=torch.nn.Linear(2, 2))
    run.finish()


@kind(lambda rng: spoilt_folder(made(build_run), rng))
def run_folder(folder: Path) -> None:
    from cinelab.runs import Run
    from cinelab.train.optim import Optim

    run = Run(folder / "run", Optim())
    run.trains_on({"path": "films", "films": 3, "mark": "abc"})
    run.restore(net=torch.nn.Linear(2, 2))
    assert isinstance(run.done_info["steps"], int)


def build_store(folder: Path) -> None:
    from cinelab.latent.clips import text_key, write_shard

    store = folder / "store"
    store.mkdir()
    write_json(
        store / "store.json",
        {"words": 4, "chunk": 1, "size": [48, 64], "fps": 8.0, "codec": "c", "encoder": "e"},
    )
    write_shard(
        store, "text-null", {text_key(""): torch.zeros(0, 8)}, {"captions": {text_key(""): ""}}
    )
    write_shard(
        store,
        "text-000000-00",
        {text_key("a cat"): torch.ones(2, 8)},
        {"captions": {text_key("a cat"): "a cat"}},
    )
    film = {
        "source": "a.mp4",
        "number": 0,
        "latents": 6,
        "videos": [],
        "shots": [
            {"seconds": [0, 1], "prompts": [["a cat", 4]]},
            {"seconds": [1, 2], "prompts": [["a cat", 2]]},
        ],
    }
    write_shard(
        store,
        "000000-00",
        {"0": torch.zeros(6, 4, 2, 2)},
        {"plan": "x", "films": [film], "skipped": []},
    )
    write_json(
        store / "000000.json",
        {
            "shards": 1,
            "sources": [{"name": "a.mp4", "said": "x", "videos": []}],
            "skipped": [{"film": "b", "why": "y"}],
        },
    )
    write_json(store / "listing.json", {"groups": [["a.mp4"]]})


@kind(
    lambda rng: spoilt_folder(
        made(build_store),
        rng,
        keep=tuple(name for name in made(build_store) if name.endswith("tensors")),
    )
)
def store(folder: Path) -> None:
    from cinelab.data.build import skipped
    from cinelab.latent.clips import FilmStore, verify

    verify(folder / "store")
    skipped(folder / "store")
    found = FilmStore(folder / "store")
    found.clips(2, 4, torch.Generator().manual_seed(0))


# ---- what lies beside videos, tables of them


def some_listing(rng: Random) -> Files:
    table = rng.choice(("videos.csv", "videos.tsv"))
    comma = "\t" if table.endswith("tsv") else ","
    rows = [
        "video,start,end,caption,film,shot",
        "a.mp4,0,1,a cat,f,1",
        'a.mp4,1,2.5,"a dog, red",f,2',
        "b.mp4,,,a bird,,",
    ]
    shots = {
        "shots": [
            {"start": 0, "end": 5, "prompt": "x", "characters": ["a"]},
            {"start": 5, "end": 9, "cut": False},
        ],
        "chunks": [0, 3],
        "given": 1,
    }
    files = {
        table: "\n".join(rows).replace(",", comma).encode(),
        "v/a.shots.json": json.dumps(shots).encode(),
        "v/b.txt": b"a cat\na dog\n",
        "v/c.json": b'{"caption": ["a cat", "a dog"]}',
        "prompts.json": b'{"a.mp4": "a cat", "b": "a dog"}',
    }
    return spoilt_folder(files, rng) | {"v/a.mp4": b"", "v/b.mp4": b"", "v/c.mp4": b""}


@kind(some_listing)
def listing(folder: Path) -> None:
    from cinelab.data.listing import list_films
    from cinelab.metrics.external.clip_files import read_prompts

    for look in (
        lambda: list_films(folder / "v", print_nothing),
        lambda: read_prompts(folder / "prompts.json"),
        *(
            lambda table=table: list_films(table, print_nothing)
            for table in folder.glob("videos.*")
        ),
    ):
        try:
            look()
        except CinelabError as error:
            assert len(str(error)) < MOST


def print_nothing(_: str) -> None:
    """Hear what was passed over."""


# ---- results


def build_results(folder: Path) -> None:
    for policy in ("camr", "full"):
        for seed in (0, 1):
            _build_cell(
                folder / "memory" / f"policy={policy},seed={seed}",
                {"policy": policy, "away": 3, "note": "x" if seed else 4, "seed": seed},
            )
    build_run(folder)
    (folder / "film").mkdir()
    write_json(
        folder / "film" / "film.json",
        {
            "model": "toybox-1step",
            "seed": 1,
            "policy": {"name": "CAMR", "budget": 4},
            "sampling": {"steps": 1},
            "cuts": [3],
        },
    )
    write_json(
        folder / "memory" / "runs.json",
        {"runs": [{"command": "cinelab sweep x", "file": "x", "sha256": "0" * 64}]},
    )
    numbers = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 4, "chance": 0.1, "upper": None}
    (folder / "reference").mkdir()
    write_json(
        folder / "reference" / "one.json",
        {
            "model": "one",
            "policy": {"name": "CAMR"},
            "sampling": {"steps": 1},
            "metrics": {"prompt": numbers},
            "recogniser": {"who": 0.9},
        },
    )
    rows = pd.DataFrame(
        {
            "film": [0, 1, 2, 3],
            "metric": "prompt",
            "value": [0.1, 0.2, 0.3, 0.5],
            "source": "model",
            "seed": [0, 0, 1, 1],
            "shot": 0,
        }
    )
    rows.to_parquet(folder / "reference" / "one.parquet")


def _build_cell(cell: Path, parameters: dict) -> None:
    cell.mkdir(parents=True)
    (cell / "output.txt").write_text("")
    write_json(cell / "config.json", parameters)
    write_json(
        cell / "cell.json",
        parameters
        | {
            "budget": 5,
            "history": 12,
            "protocol": 2,
            "speed": {"cpu_s_per_frame": 0.1, "kv_mib": 1.0},
            "metrics": {"mine": {"better": "low", "unit": "s", "range": [0, 1]}},
        },
    )
    write_json(
        cell / "done.json",
        {
            "schema": 1,
            "parameters": parameters,
            "notebook": "x.ipynb",
            "git": "abc",
            "seconds": 2.0,
            "peak_memory_mb": 100,
            "hardware": {"device": "cpu", "cores": 2, "torch": "2"},
            "versions": {"python": "3"},
        },
    )
    rows = pd.DataFrame(
        {
            "film": [0, 1, 2] * 2,
            "shot": 0,
            "metric": ["identity"] * 3 + ["mine"] * 3,
            "value": [0.1, 0.5, 0.3, 1.0, 2.0, 3.0],
            "source": "model",
            "seed": 0,
        }
    )
    rows.to_parquet(cell / "rows.parquet")


def some_results(rng: Random) -> Files:
    files = made(build_results)
    text = tuple(
        name for name in files if name.endswith((".parquet", ".pt")) and rng.random() < 0.7
    )
    return spoilt_folder(files, rng, keep=text)


@kind(some_results)
def results(folder: Path) -> None:
    from cinelab.lab.reports.query import column_table, overview, query, telling

    found = query(folder, "status = 'done'")
    runs = query(folder, sql="select * from runs")
    assert len(runs) >= 5, "a broken run is a row"
    overview(runs), telling(found), column_table(found)


@kind(some_results)
def cells(folder: Path) -> None:
    from cinelab.lab.reports.report import summary_line
    from cinelab.lab.reports.report_origin import provenance, run_table
    from cinelab.lab.reports.sweep_cells import load_cells
    from cinelab.lab.reports.sweep_table import comparisons, costs, pooled

    found = load_cells(folder / "memory")
    assert len(found.table) >= 3, "a broken cell is a row"
    (
        pooled(found),
        costs(found),
        comparisons(found, found.metrics),
        provenance(found),
        run_table(found),
        summary_line(found),
    )


@kind(some_results)
def report(folder: Path) -> None:
    from cinelab.lab.reports.report import render_report, section

    render_report([section([str(folder / "memory")])], "t")


def some_card(rng: Random) -> Files:
    return spoilt_folder(
        {name: data for name, data in made(build_results).items() if name.startswith("reference/")},
        rng,
    )


@kind(some_card)
def card(folder: Path) -> None:
    from cinelab.lab.reports.cards import benchmark_table, card_table, compare_cards, print_card
    from cinelab.printing import Plain

    for look in (
        lambda: compare_cards(["one"], folder / "reference"),
        lambda: benchmark_table(["one"], folder / "reference"),
        lambda: card_table(card_of(folder)),
        lambda: print_card(card_of(folder), Plain(file=io.StringIO())),
    ):
        try:
            look()
        except CinelabError as error:
            assert len(str(error)) < MOST


def card_of(folder: Path) -> dict:
    from cinelab.lab.reports.cards import read_card

    return read_card(folder / "reference" / "one.json")


TOKENS = [
    "policy",
    "away",
    "identity",
    '"identity"',
    "note",
    "seed",
    "status",
    "runs",
    "wide",
    "measures",
    "select",
    "from",
    "where",
    "*",
    "=",
    "<",
    ">",
    "and",
    "or",
    "not",
    "'camr'",
    "3",
    "-1",
    "1e999",
    "'",
    '"',
    "(",
    ")",
    ",",
    ";",
    "--",
    "/*",
    "count(*)",
    "avg(identity)",
    "cast(policy as int)",
    "union all",
    "order by 1",
    "limit 3",
    "null",
    "is",
    "like",
    "'%a%'",
    "in (1,2)",
    "read_csv('/etc/passwd')",
    "copy runs to '/tmp/x'",
    "attach 'x'",
    "install httpfs",
    "load httpfs",
    "pragma version",
    "set threads=9",
    "getenv('HOME')",
    "[1,2]",
    "{'a':1}",
    "::int",
    "::json",
    "\0",
    "\u202e",
    "\U0001f98a",
    "[/b]",
    "x" * 500,
    "((((((((",
    "between",
    "case when 1 then 2 end",
    "current_setting('memory_limit')",
    "values (1)",
    "describe runs",
    "summarize runs",
    "explain select 1",
    "pivot runs on kind",
    "unnest([1,2])",
    "struct_pack(a:=1)",
    "interval 1 day",
    "date '2020-13-45'",
    "1/0",
    "sqrt(-1)",
    "9999999999999999999999",
]
QUESTIONS = [
    "policy = 'camr' and away = 3",
    "select policy, avg(identity) as m from wide group by policy",
    "note = 4",
    "note > 3 or note = 'x'",
    "select * from runs where status = 'done'",
]


def some_question(rng: Random) -> Files:
    words = rng.choice(QUESTIONS).split()
    for _ in range(rng.randint(0, 4)):
        place = rng.randint(0, len(words))
        words[place : place + rng.randint(0, 2)] = [
            rng.choice(TOKENS) for _ in range(rng.randint(0, 2))
        ]
    if rng.random() < 0.3:
        words = [rng.choice(TOKENS) for _ in range(rng.randint(1, 8))]
    return {
        "question.txt": " ".join(words).encode("utf-8", "replace"),
        "how.txt": rng.choice((b"where", b"sql")),
    }


@cache
def fixed_results() -> TemporaryDirectory:
    folder = TemporaryDirectory()
    for name, data in made(build_results).items():
        path = Path(folder.name) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@kind(some_question)
def question(folder: Path) -> None:
    from cinelab.lab.reports.query import column_table, query, telling

    question = (folder / "question.txt").read_bytes().decode()
    found = query(fixed_results().name, **{(folder / "how.txt").read_text(): question})
    column_table(found)
    if "sweep" in found:
        telling(found)


# ---- the command line

ODD = [
    "",
    "[/b]",
    ":smile:",
    "\x1b[31mx",
    "\u202egnp.exe",
    "a" * 10**5,
    "a b " * 10**4,
    "\U0001f98a",
    "-1",
    "0",
    "1e9",
    "9" * 400,
    "nan",
    "inf",
    "../..",
    "/nowhere/x",
    "x\ny",
    "=",
    "a=b",
    "%s",
    "[1",
    "--",
    "-o",
    "null",
    "'",
    '"',
    "\t",
]
NUMBERS = [
    "--chunks",
    "--chunk",
    "--steps",
    "--seed",
    "--budget",
    "--workers",
    "--films",
    "--seeds",
    "--size",
    "--lora-scale",
    "--shard-gib",
    "--device",
    "--host",
    "--share",
    "--tolerance",
    "--port",
    "--visitors",
    "--idle",
    "--policy",
    "--model",
    "--set",
    "--only",
    "--folder",
    "--where",
    "--columns",
    "--sql",
    "--to",
    "--part",
    "--dtype",
    "--lora",
    "--fps",
    "--begin",
    "--every",
    "--processes",
]
# those that begin no long work
WORDS = [
    "direct",
    "plan",
    "compare",
    "results",
    "report",
    "sweep",
    "train",
    "convert",
    "clips",
    "eval",
    "eval videos",
    "eval vbench",
]


def some_arguments(rng: Random) -> Files:
    words = rng.choice(WORDS).split() + [rng.choice(ODD) for _ in range(rng.randint(0, 2))]
    for _ in range(rng.randint(0, 3)):
        words.insert(rng.randint(1, len(words)), rng.choice(NUMBERS))
        words.insert(rng.randint(1, len(words)), rng.choice(ODD))
    return {"words.json": json.dumps([word.replace("\0", "") for word in words]).encode()}


@kind(some_arguments)
def arguments(folder: Path) -> None:
    from cinelab import printing
    from cinelab.cli import commands as cli

    words = json.loads((folder / "words.json").read_bytes())
    message = io.StringIO()
    (folder / "here").mkdir()
    # None: wherever sys.stdout is then
    before = sys.argv, Path.cwd(), printing.out._file, printing.err._file
    try:
        os.chdir(folder / "here")
        sys.argv, printing.out.file, printing.err.file = ["cinelab", *words], message, message
        with redirect_stdout(message), redirect_stderr(message):
            cli.run_command()
    except SystemExit as ended:
        assert ended.code in (0, 1, 2, None), f"exit code {ended.code}"
        assert ended.code != 2 or len(message.getvalue()) < 2 * MOST, (
            f"{len(message.getvalue())} characters were said"
        )
    finally:
        sys.argv, here, printing.out._file, printing.err._file = before
        os.chdir(here)
