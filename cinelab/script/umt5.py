"""Prompts to vectors as Wan2.1 reads them: UMT5 through transformers, with every prompt's vectors
stored on disk.

    S prompts   L = 512 tokens   E = 4096 width   n true tokens of a prompt, its end </s> among them

Each prompt is encoded alone, filled up to L and masked, and what lies after its n tokens is zero:
the numbers of diffusers' `WanPipeline`. The empty prompt is encoded too (it is </s> alone): Wan's
guidance compares with it.

The encoder has 5.7 B parameters and is needed only for a prompt that is not in the cache, so it is
read then and let go after.
"""

import gc
import html
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cinelab.checksums import checksum_of
from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.files import glance, write_atomic, write_json
from cinelab.readable import Readable
from cinelab.texts import check_regular

STRAIGHT = str.maketrans(
    {
        **dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),
    }
)
RECENT = 256  # prompts that stay in memory
FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors calls them
SUM = "blake2b"  # in a prompt's file: the checksum of its vectors
ABOUT = "encoder.json"  # in the cache: which encoder made it, for machines that have only the cache


class LongPrompt(UserWarning):
    """A prompt has more tokens than the encoder reads; the last ones are left out."""


@dataclass(frozen=True)
class Encoded(Readable):
    """A prompt's vectors (n, E), and how many of its tokens were left out."""

    rows: Tensor
    cut: int


def clean_prompt(prompt: str) -> str:
    """Return the text that the encoder reads: HTML entities are decoded (twice, as Wan does),
    quotes made straight, white space made single.

    Wan also repairs wrongly decoded text where the package ftfy is installed; here it never does,
    so that a prompt has one meaning on every machine. Of what ftfy does to sound text the quotes
    are the part that the tokenizer does not do itself.
    """
    return " ".join(html.unescape(html.unescape(prompt)).translate(STRAIGHT).split())


class Umt5Encoder:
    """The text encoder of a diffusers Wan folder (`text_encoder/` and `tokenizer/`), behind the
    `TextEncoder` protocol.

    cache     folder for the vectors of prompts; None keeps them in memory only
    device    where the encoder computes; vectors come back on the CPU, as `dtype`
    keep      hold the encoder after use, for a desk where new prompts come all the time
    offload   a kept encoder waits in main memory and goes to the device for each use
    """

    def __init__(
        self,
        folder: str | Path,
        cache: str | Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        length: int = 512,
        keep: bool = False,
        offload: bool = False,
    ):
        self.folder = Path(folder)
        self.cache = Path(cache) if cache else None
        self.device = device
        self.dtype = dtype
        self.length = length
        self.keep = keep
        self.offload = offload
        about = self._about()
        config = self.folder / "text_encoder/config.json"
        self.here = config.is_file()
        self.width = (
            read_mapping(config, d_model=int | None).get("d_model")
            if self.here
            else about.get("width")
        ) or 4096
        self.fingerprint = self._fingerprint() if self.here else about.get("fingerprint")
        # it is the name of a folder
        if self.fingerprint and Path(self.fingerprint).name != self.fingerprint:
            raise CinelabError(
                f"{self.cache}/{ABOUT} has the fingerprint {shorten_prompt(self.fingerprint)}, "
                "which is no name of a folder; copy the cache again."
            )
        self._known: dict[str, Encoded] = {}
        self._held: tuple | None = None

    def _about(self) -> dict:
        """Return what the cache states of the encoder that made it."""
        if self.cache is None or not (self.cache / ABOUT).is_file():
            return {}
        return read_mapping(self.cache / ABOUT, width=int | None, fingerprint=str | None)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return the vectors (S, L, E) on the CPU, unused places zero. Warns of prompts that are
        too long (`LongPrompt`).

        CinelabError where a prompt is in no cache and the encoder is absent or broken.
        """
        texts = [clean_prompt(prompt) for prompt in prompts]
        stored = {text: self._find(text) for text in dict.fromkeys(texts)}
        made = self._make([text for text, encoded in stored.items() if encoded is None])
        found = {text: encoded or made[text] for text, encoded in stored.items()}
        out = torch.zeros(len(texts), self.length, self.width, dtype=self.dtype)
        for place, text in enumerate(texts):
            out[place, : len(found[text].rows)] = found[text].rows
        for text, encoded in found.items():
            if encoded.cut:
                warnings.warn(
                    f"The prompt {shorten_prompt(text)!r} has {self.length + encoded.cut} tokens; "
                    f"only {self.length} are read, the last {encoded.cut} are left out, so make "
                    "it shorter.",
                    LongPrompt,
                    stacklevel=2,
                )
        self._known = dict(list((self._known | found).items())[-RECENT:])
        return out

    # ---- the cache

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode what is not known yet in one go, so that the encoder is read once for a whole
        film."""
        self.encode(prompts)

    def path(self, text: str) -> Path | None:
        """Where a cleaned prompt's vectors are kept."""
        name = checksum_of(text.encode())
        return (
            self.cache / self.fingerprint / f"{name}.safetensors"
            if self.cache and self.fingerprint
            else None
        )

    def _find(self, text: str) -> Encoded | None:
        """Return what is stored of a prompt. A broken file is written again, with a warning."""
        path = self.path(text)
        if text in self._known or path is None or not path.is_file():
            return self._known.get(text)
        try:
            with safe_open(path, "pt") as file:
                rows = file.get_tensor("rows")
                about = file.metadata()
            if about.get(SUM, digest := _digest(rows)) != digest:
                raise ValueError("its numbers have changed since it was written")
            if not rows.is_floating_point() or not rows.isfinite().all():
                raise ValueError("it holds other than finite floats")
            if (
                rows.ndim != 2
                or rows.shape[1] != self.width
                or len(rows) > self.length
                or about["prompt"] != text
            ):
                raise ValueError(
                    f"it holds {tuple(rows.shape)} of {shorten_prompt(about['prompt'])!r}"
                )
            return Encoded(rows.to(self.dtype), int(about["cut"]))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(
                f"{path} is broken ({error}); the prompt {shorten_prompt(text)!r} is encoded "
                "again.",
                stacklevel=3,
            )
            return None

    def _store(self, text: str, encoded: Encoded) -> None:
        """Keep for the next time; a folder that cannot be written to costs time, not the film."""
        path = self.path(text)
        if self.cache is None or path is None:
            return
        tensors = {"rows": encoded.rows.contiguous()}
        about = {"prompt": text, "cut": str(encoded.cut), SUM: _digest(encoded.rows)}
        try:
            write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata=about))
            write_json(self.cache / ABOUT, {"fingerprint": self.fingerprint, "width": self.width})
        except CinelabError as error:
            warnings.warn(
                f"{error}; the prompt {shorten_prompt(text)!r} will be encoded again next time, "
                "unless prompt_cache names a folder that can be written to.",
                stacklevel=4,
            )

    def _fingerprint(self) -> str:
        """Of encoder, tokenizer, precision and length: all that a prompt's vectors depend on."""
        parts = [
            path
            for name in ("text_encoder", "tokenizer")
            for path in (self.folder / name).glob("*")
            if path.is_file()
        ]
        return f"{glance(parts)}-{str(self.dtype).removeprefix('torch.')}-{self.length}"

    # ---- the encoder

    @torch.no_grad()
    def _make(self, texts: list[str]) -> dict[str, Encoded]:
        """Encode what is in no cache; the encoder is there from the first of them to the last."""
        if not texts:
            return {}
        if not self.here:
            raise CinelabError(
                f"{self.folder / 'text_encoder'} is not there and the prompt "
                f"{shorten_prompt(texts[0])!r} is not in the cache ({self.cache or 'none'}); copy "
                f"text_encoder and tokenizer of the diffusers folder to {self.folder}."
            )
        tokenizer, model = self._held or self._load()
        try:
            model = model.to(self.device)
            made = {text: self._encode_one(tokenizer, model, text) for text in texts}
        except torch.OutOfMemoryError as error:
            raise CinelabError(
                f"The text encoder does not fit on {self.device} beside what is there "
                f"({str(error).splitlines()[0]}); "
                'let it compute on the CPU (device="cpu").'
            ) from error
        finally:
            self._held = (
                (tokenizer, model.to("cpu") if self.offload else model) if self.keep else None
            )
            del model
            gc.collect()
            if torch.device(self.device).type == "cuda":
                torch.cuda.empty_cache()
        for text, encoded in made.items():
            self._store(text, encoded)
        return made

    def _encode_one(self, tokenizer, model, text: str) -> Encoded:
        whole = len(tokenizer(text, add_special_tokens=True, verbose=False).input_ids)
        tokens = tokenizer(
            [text],
            padding="max_length",
            max_length=self.length,
            truncation=True,
            return_tensors="pt",
        )
        ids = tokens.input_ids.to(model.device)
        mask = tokens.attention_mask.to(model.device)
        rows = model(ids, mask).last_hidden_state[0, : int(mask.sum())]
        made = rows.to("cpu", self.dtype, copy=True)
        if not made.isfinite().all():  # nothing of that kind gets into the cache
            raise CinelabError(
                f"The text encoder in {self.folder} makes numbers that are not finite of the "
                f"prompt {shorten_prompt(text)!r} in {str(self.dtype).removeprefix('torch.')}; set "
                "dtype to bf16, or copy text_encoder again if it is."
            )
        return Encoded(made, max(0, whole - self.length))

    def _load(self) -> tuple:
        """Tokenizer and encoder, on the CPU."""
        from transformers import AutoTokenizer, UMT5EncoderModel
        from transformers.utils.logging import disable_progress_bar

        place = self.folder / "text_encoder"
        config = read_mapping(place / "config.json")
        if (kind := config.get("model_type")) != "umt5":
            raise CinelabError(
                f"{place / 'config.json'} describes a {kind!r}, not the umt5 that Wan2.1 reads; "
                "copy the folder again."
            )
        if not any(
            (self.folder / "tokenizer" / name).is_file()
            for name in ("tokenizer.json", "spiece.model")
        ):
            raise CinelabError(
                f"{self.folder / 'tokenizer'} holds no tokenizer (tokenizer.json or spiece.model); "
                "copy the folder tokenizer of the diffusers model."
            )
        _check_kinds(place)
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                self.folder / "tokenizer", local_files_only=True
            )
            disable_progress_bar()  # one line a prompt is no news
            loaded: Any = UMT5EncoderModel.from_pretrained(
                place, dtype=self.dtype, local_files_only=True, output_loading_info=True
            )
            model, report = loaded
        # transformers raises many kinds for absent shards, broken files and foreign tokenizers
        except Exception as error:
            raise CinelabError(
                f"The text encoder in {self.folder} cannot be read ({str(error).splitlines()[0]}); "
                "copy text_encoder and tokenizer again."
            ) from error
        if odd := next(
            (
                name
                for name, value in model.named_parameters()
                if not torch.stack(torch.aminmax(value)).isfinite().all()
            ),
            None,
        ):
            raise CinelabError(
                f"The text encoder in {self.folder} holds numbers that are not finite (first: "
                f"{odd}); copy text_encoder again."
            )
        lacking = set(report["missing_keys"]) - {"encoder.embed_tokens.weight"}
        if lacking:
            raise CinelabError(
                f"{place} lacks {len(lacking)} tensors of the encoder (first: "
                f"{sorted(lacking)[0]}); copy the folder again."
            )
        # one table; some versions of transformers leave the copy at zero
        model.encoder.embed_tokens.weight = model.shared.weight
        return tokenizer, model.eval().requires_grad_(False)


def _check_kinds(place: Path) -> None:
    """Refuse weights that are no floats (quantised ones): transformers would take their numbers for
    those of floats."""
    for path in sorted(place.glob("*.safetensors")):
        check_regular(path)
        try:
            with safe_open(path, "pt") as file:
                kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}
        except (SafetensorError, OSError):  # transformers says what is broken
            continue
        if odd := next((name for name, kind in kinds.items() if kind not in FLOATS), None):
            raise CinelabError(
                f"{path}: {odd} is {kinds[odd].lower()}, and float32, float16 or bfloat16 is "
                "expected; take the text encoder before it was quantised."
            )


def _digest(rows: Tensor) -> str:
    """Of vectors as they are stored."""
    return checksum_of(rows.contiguous().view(torch.uint8).numpy().data)


def shorten_prompt(text: str, most: int = 40) -> str:
    """A prompt's beginning, for sentences."""
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."
