"""VisionReward: how people would rate a video for its prompt, and how much of the prompt is to be
seen in it.

Both are yes/no questions to one video-language model, run in an environment of its own on a GPU.
The reward's questions and weights come from the cloned repository ($VISIONREWARD_HOME), the model
from $VISIONREWARD_MODEL. What is arithmetic here (frames to show, questions, answers to scores) is
plain functions.
"""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cinelab.config import read_mapping
from cinelab.devices import chosen_device, device_choice
from cinelab.errors import CinelabError
from cinelab.files import expanded
from cinelab.metrics.external.clip_files import FilmFile, ShotFile, each_clip, spans_as_shown
from cinelab.metrics.external.environments import VISIONREWARD, python_of, run_worker
from cinelab.metrics.external.vbench_files import Missing
from cinelab.metrics.rows import Row, absent, failed
from cinelab.metrics.video.clips import why_failed
from cinelab.outputs import passing_folder
from cinelab.stream.decoded_video import DecodedVideo, pick
from cinelab.texts import RECORD, read_json, read_text

REWARD_METRICS = REWARD, FOLLOWED = ("visionreward", "instruction following")
QUESTIONS = Path("VisionReward_Video/VisionReward_video_qa_select.txt")
WEIGHTS = Path("VisionReward_Video/weight.json")
PLACE_OF_PROMPT = "[[prompt]]"
MOST_FRAMES = 24
SPLIT = re.compile(
    r"[.,;:!?]+\s+|\s+(?:and|then|while|that|who|which)\s+|(?<=shot)\s+of\s+"
    r"|\s+(?=(?:in|on|at|by|with|under|near|beside)\s)",
    re.IGNORECASE,
)
LOOSE = re.compile(r"^(?:and|then|while)\s+", re.IGNORECASE)  # what a comma may leave in front
Tell = Callable[[str], None]


@dataclass(frozen=True)
class RewardModel:
    """Where the reward's files and the model are. `backend` ("module:function") takes another model
    in their place."""

    home: Path
    model: Path
    backend: str = ""

    @classmethod
    def of_machine(cls) -> "RewardModel":
        """From $VISIONREWARD_HOME and $VISIONREWARD_MODEL."""
        return cls(
            expanded(os.environ.get("VISIONREWARD_HOME") or "VisionReward", "VISIONREWARD_HOME"),
            expanded(
                os.environ.get("VISIONREWARD_MODEL") or "VisionReward-Video", "VISIONREWARD_MODEL"
            ),
        )

    @property
    def version(self) -> str:
        """The repository's revision, where git can tell it, and the checkpoint folder's name."""
        revision = ""
        with suppress(OSError):
            command = ["git", "-C", str(self.home), "rev-parse", "--short=12", "HEAD"]
            revision = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        return f"{revision or 'no revision'}, {self.backend or self.model.name}"


def preflight_reward(setting: RewardModel | None = None) -> list[Missing]:
    """What is missing here of the repository, the checkpoint and the machine. Offline."""
    setting = setting or RewardModel.of_machine()
    clone = (
        "git clone https://github.com/THUDM/VisionReward and name the clone in $VISIONREWARD_HOME"
    )
    found = [
        Missing(setting.home / file, (REWARD,), clone)
        for file in (QUESTIONS, WEIGHTS)
        if not _filled(setting.home / file)
    ]
    if setting.backend:
        return found
    hub = (
        "huggingface-cli download THUDM/VisionReward-Video --local-dir <folder> and name it in "
        "$VISIONREWARD_MODEL"
    )
    lacks = [
        name
        for name in ("config.json", "tokenizer_config.json")
        if not _filled(setting.model / name)
    ]
    lacks += _lacking_weights(setting.model)
    found += [Missing(setting.model / name, REWARD_METRICS, hub) for name in lacks]
    if not _has_gpu():
        found.append(
            Missing(
                Path("/dev/nvidia0"),
                REWARD_METRICS,
                f"a CUDA device; here it is {device_choice().device}: {device_choice().why}",
            )
        )
    return found


def visionreward_rows(
    videos: Sequence[FilmFile],
    setting: RewardModel | None = None,
    whole: bool = False,
    requirements: dict[str, Sequence[str]] | None = None,
    rewriting: str = "none",
    tell: Tell = print,
) -> list[Row]:
    """A "visionreward" and an "instruction following" row a clip: every shot where spans are known,
    else the video.

    `requirements` lists by clip name what is checked instead of `statements(prompt)`. What cannot
    run is absent with the reason; a damaged video is a failed row. Raises CinelabError without
    VisionReward's environment.
    """
    setting = setting or RewardModel.of_machine()
    python_of(VISIONREWARD)
    waits = {
        name: "; ".join(str(one) for one in preflight_reward(setting) if name in one.dimensions)
        for name in REWARD_METRICS
    }
    rows = []
    shown = []
    with passing_folder("frames") as scratch:
        for number, video in enumerate(videos):
            try:
                shown += _shown(video, scratch / f"{number}", whole, not all(waits.values()))
            except Exception as error:
                rows.append(failed(video.clip, why_failed(video.path, error), run=video.run))
        plans = [
            _questions(clip, setting, waits, (requirements or {}).get(clip.video.clip))
            for clip in shown
        ]
        answer = (
            _ask(shown, plans, setting, tell)
            if any(reward or parts for reward, parts in plans)
            else {}
        )
    for number, (clip, plan) in enumerate(zip(shown, plans, strict=True)):
        rows += _rows(
            clip, plan, number, answer=answer, waits=waits, setting=setting, rewriting=rewriting
        )
    return rows


def pick_frames(count: int, fps: float) -> list[int]:
    """The frames shown to the model: the nearest to every whole second from 0 on, at most 24."""
    seconds = range(round((count - 1) / fps) + 1)
    return [min(round(second * fps), count - 1) for second in seconds][:MOST_FRAMES]


def statements(prompt: str) -> list[str]:
    """A prompt's checkable parts, each once, in order: "a red fox in the snow, at night" has three.

    Splits at punctuation, at and/then/while/that/who/which, and before
    in/on/at/by/with/under/near/beside. It knows no grammar: "black and white" becomes two; give a
    list of one's own where that matters.
    """
    parts = [LOOSE.sub("", part.strip(" .,;:!?")) for part in SPLIT.split(" ".join(prompt.split()))]
    return list(dict.fromkeys(part for part in parts if part))


def as_question(statement: str, prompt: str) -> str:
    """One statement as a yes/no question that repeats the prompt."""
    return (
        f'The video was made for the text "{prompt}". Does the video show this part of it: '
        f'"{statement}"? Answer yes or no.'
    )


def yes(answer: str) -> bool:
    """Only a plain yes counts, in any case, with or without a full stop."""
    return answer.strip().strip(".!").lower() == "yes"


def reward(answers: Sequence[str], weights: Sequence[float]) -> float:
    """Mean over the questions of weight times +1 (yes) or -1 (anything else)."""
    if len(answers) != len(weights) or not len(weights):
        raise CinelabError(
            f"answers: {len(answers)} for {len(weights)} weights; a reward needs one answer a "
            "weight."
        )
    return float(
        np.mean(
            [
                weight if yes(answer) else -weight
                for answer, weight in zip(answers, weights, strict=True)
            ]
        )
    )


def followed(answers: Sequence[str]) -> float:
    """Share of the statements that the model saw."""
    if not answers:
        raise CinelabError(
            "answers: none; instruction following needs at least one statement to ask."
        )
    return sum(map(yes, answers)) / len(answers)


def unclear(answers: Sequence[str]) -> int:
    """How many answers were neither yes nor no; they counted as no."""
    return sum(not yes(answer) and answer.strip().strip(".!").lower() != "no" for answer in answers)


def reward_questions(setting: RewardModel, prompt: str) -> tuple[list[str], list[float]]:
    """The repository's questions for this prompt, line ends kept as its own script keeps them, and
    their weights."""
    try:
        lines = read_text(setting.home / QUESTIONS, RECORD).splitlines(keepends=True)
        weights = [float(weight) for weight in read_json(setting.home / WEIGHTS)]
    except (CinelabError, ValueError, TypeError) as error:
        raise CinelabError(
            f"{setting.home}: its questions or weights cannot be read ({error}); "
            "clone the repository again."
        ) from error
    if len(lines) != len(weights):
        raise CinelabError(
            f"{setting.home}: {len(lines)} questions but {len(weights)} weights; clone the "
            "repository again."
        )
    return [line.replace(PLACE_OF_PROMPT, prompt) for line in lines], weights


def _shown(video: FilmFile, stem: Path, whole: bool, needed: bool) -> list[ShotFile]:
    """The clips of a video, each with the frames the model sees in an .npy file."""
    film = DecodedVideo(video.path, keep=0)
    clips = []
    wanted = {}
    for shot, (first, end), prompt in each_clip(spans_as_shown(video, film), len(film), whole):
        file = stem.with_name(f"{stem.name}-{shot}.npy")
        wanted[file] = [first + frame for frame in pick_frames(end - first, film.fps)]
        clips.append(ShotFile(video, shot, file, prompt, film.fps, end - first))
    if needed:
        _save(film, wanted)
    return clips


def _save(film: DecodedVideo, wanted: dict[Path, list[int]]) -> None:
    """Write some frames of a film to each file, in one pass; what is complete is let go."""
    held: dict[Path, dict[int, np.ndarray]] = {file: {} for file in wanted}
    for number, frame in pick(film, {number for numbers in wanted.values() for number in numbers}):
        for file in [file for file in held if number in wanted[file]]:
            held[file][number] = frame
            if number == wanted[file][-1]:
                found = held.pop(file)
                np.save(file, np.stack([found[one] for one in wanted[file]]))


def _questions(
    clip: ShotFile, setting: RewardModel, waits: dict[str, str], given: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """(questions of the reward, questions of the statements) for one clip; none where they cannot
    be put."""
    first = reward_questions(setting, clip.prompt)[0] if not waits[REWARD] and clip.prompt else []
    wanted = list(given) if given is not None else statements(clip.prompt)
    return first, [] if waits[FOLLOWED] else [
        as_question(one, clip.prompt or one) for one in wanted
    ]


def _ask(
    clips: Sequence[ShotFile], plans: Sequence[tuple[list, list]], setting: RewardModel, tell: Tell
) -> dict:
    shown = [
        {"frames": str(clip.file), "questions": [*first, *second]}
        for clip, (first, second) in zip(clips, plans, strict=True)
    ]
    return run_worker(
        VISIONREWARD,
        {"model": str(setting.model), "clips": shown, "backend": setting.backend},
        tell,
    )


def _rows(
    clip: ShotFile,
    plan: tuple[list, list],
    number: int,
    *,
    answer: dict,
    waits: dict[str, str],
    setting: RewardModel,
    rewriting: str,
) -> list[Row]:
    """The two rows of one clip."""
    answers = answer["answers"][number] if answer else []
    error = answer["errors"].get(str(number), "") if answer else ""
    halves = {REWARD: answers[: len(plan[0])], FOLLOWED: answers[len(plan[0]) :]}
    common = {
        "backend": "visionreward",
        "version": setting.version,
        "rewriting": rewriting,
        **clip.columns,
    }
    rows = []
    for name, questions in zip(REWARD_METRICS, plan, strict=True):
        mute = "" if questions else "has no prompt: give one with --prompt or --prompts"
        why = waits[name] or (f"the model failed: {error}" if error else mute)
        if why:
            rows.append(absent(metric=name, why=why, **common))
            continue
        answers = halves[name]
        value = (
            reward(answers, reward_questions(setting, clip.prompt)[1])
            if name == REWARD
            else followed(answers)
        )
        rows.append(
            Row(metric=name, value=value, detail=_detail(name, clip, answers, questions), **common)
        )
    return rows


def _detail(name: str, clip: ShotFile, answers: Sequence[str], questions: Sequence[str]) -> str:
    shown = len(pick_frames(clip.frames, clip.fps))
    notes = [f"{sum(map(yes, answers))} yes of {len(questions)}, {shown} frames shown"]
    notes += [f"{unclear(answers)} neither yes nor no, counted as no"] * bool(unclear(answers))
    if name == FOLLOWED:
        unseen = [
            _statement(question)
            for question, answer in zip(questions, answers, strict=True)
            if not yes(answer)
        ]
        notes.append(f"not seen: {', '.join(unseen) or 'nothing'}")
    return "; ".join(notes)


def _statement(question: str) -> str:
    return question.rsplit('part of it: "', 1)[1].rsplit('"', 1)[0]


def _filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _lacking_weights(folder: Path) -> list[str]:
    """Weight files that the checkpoint's index names and that are not there; without an index, any
    weights will do."""
    for index in folder.glob("*.index.json"):
        with suppress(CinelabError):
            named = sorted(
                set(read_mapping(index, weight_map=dict[str, str])["weight_map"].values())
            )
            return [name for name in named if not _filled(folder / name)]
    weights = [
        path
        for ending in ("*.safetensors", "pytorch_model*.bin")
        for path in folder.glob(ending)
        if _filled(path)
    ]
    return [] if weights else ["model.safetensors.index.json"]


def _has_gpu() -> bool:
    return chosen_device().startswith("cuda")
