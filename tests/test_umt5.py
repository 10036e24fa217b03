"""UMT5: the vectors of diffusers' pipeline, kept on disk; the encoder is read only when it must
be."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from wan_folder import make_wan_folder

from cinelab.errors import CinelabError
from cinelab.script.umt5 import LongPrompt, Umt5Encoder, clean_prompt, shorten_prompt

PROMPTS = [
    "wide shot of a red cat that waves at the beach",
    "",
    "then a blue robot walks, at night &amp; alone",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_wan_folder(
        tmp_path_factory.mktemp("model") / "wan", parts=("text_encoder", "tokenizer"), shards=True
    )


def encoder(folder, cache=None, **more) -> Umt5Encoder:
    return Umt5Encoder(folder, cache, **{"dtype": torch.float32, "length": 64} | more)


def files(cache):
    return sorted(cache.glob("*/*.safetensors"))


@pytest.fixture
def unread(monkeypatch):
    """From here on the encoder may not be read."""

    def forbid(self):
        raise AssertionError("the encoder was read")

    return lambda: monkeypatch.setattr(Umt5Encoder, "_load", forbid)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_vectors_are_those_of_the_diffusers_pipeline(folder, tmp_path, dtype):
    from diffusers import WanPipeline

    whole = make_wan_folder(tmp_path / "wan", parts=("transformer", "vae"))
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(folder / name, whole / name)
    pipe = WanPipeline.from_pretrained(whole, dtype=dtype)
    ours = encoder(folder, dtype=dtype).encode(PROMPTS)
    for prompt, vectors in zip(PROMPTS, ours, strict=True):
        theirs, _ = pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=64, device="cpu"
        )
        assert torch.equal(vectors, theirs[0]), prompt
    _, null = pipe.encode_prompt(PROMPTS[0], max_sequence_length=64, device="cpu")
    assert torch.equal(ours[1], null[0])


def test_unused_places_are_zero_and_the_empty_prompt_is_one_token(folder):
    out = encoder(folder).encode(PROMPTS)
    used = out.abs().sum(-1) > 0
    assert out.shape == (3, 64, 32) and out.dtype == torch.float32
    assert used[1].sum() == 1 and used[1, 0]
    assert all(row[: row.sum()].all() for row in used) and used[0].sum() > 10


def test_a_prompt_does_not_depend_on_its_company(folder):
    alone = torch.cat([encoder(folder).encode([prompt]) for prompt in PROMPTS])
    assert torch.equal(alone, encoder(folder).encode(PROMPTS))
    assert torch.equal(
        alone[[2, 0, 2]], encoder(folder).encode([PROMPTS[2], PROMPTS[0], PROMPTS[2]])
    )


def test_known_prompts_come_from_the_cache(folder, tmp_path, unread):
    first = encoder(folder, tmp_path).encode(PROMPTS)
    assert len(files(tmp_path)) == 3
    with safe_open(files(tmp_path)[0], "pt") as file:
        assert file.metadata()["prompt"] in map(clean_prompt, PROMPTS)
    unread()
    assert torch.equal(encoder(folder, tmp_path).encode(PROMPTS), first)
    assert torch.equal(
        encoder(folder, tmp_path).encode(["  wide shot of a red\ncat that waves at the beach "]),
        first[:1],
    )
    with pytest.raises(AssertionError, match="was read"):
        encoder(folder, tmp_path).encode(["a new one"])


def test_a_cache_belongs_to_one_encoder(folder, tmp_path):
    encoder(folder, tmp_path / "cache").encode([""])
    other = make_wan_folder(tmp_path / "other", seed=1, parts=("text_encoder", "tokenizer"))
    assert not torch.equal(
        encoder(other, tmp_path / "cache").encode([""]),
        encoder(folder, tmp_path / "cache").encode([""]),
    )
    encoder(folder, tmp_path / "cache", dtype=torch.bfloat16).encode([""])
    assert len(files(tmp_path / "cache")) == 3


def test_the_encoder_is_let_go_unless_it_is_to_be_kept(folder):
    one = encoder(folder)
    kept = encoder(folder, keep=True, offload=True)
    for each in (one, kept):
        each.encode(["a cat"])
    assert one._held is None and kept._held is not None
    model = kept._held[1]
    kept.encode(["a robot"])
    assert kept._held[1] is model


def test_without_a_cache_prompts_stay_in_memory(folder, unread):
    one = encoder(folder)
    first = one.encode(PROMPTS)
    unread()
    assert torch.equal(one.encode(PROMPTS), first)


def test_a_long_prompt_is_cut_and_said_even_from_the_cache(folder, tmp_path):
    prompt = "cat " * 70
    for _ in range(2):
        with pytest.warns(
            LongPrompt, match="'cat cat.*has 71 tokens; only 64 are read, the last 7 are left out"
        ):
            out = encoder(folder, tmp_path).encode([prompt])
    assert (out.abs().sum(-1) > 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder(folder, tmp_path).encode(["cat " * 63])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        lambda path: path.write_bytes(b""),
        lambda path: save_file(
            {"rows": torch.zeros(2, 5)}, path, metadata={"prompt": "", "cut": "0"}
        ),
        lambda path: save_file(
            {"rows": torch.zeros(2, 32)}, path, metadata={"prompt": "b", "cut": "0"}
        ),
        lambda path: save_file({"other": torch.zeros(2, 32)}, path),
    ],
)
def test_a_broken_cache_file_is_said_and_made_again(folder, tmp_path, damage):
    first = encoder(folder, tmp_path).encode([""])
    damage(files(tmp_path)[0])
    with pytest.warns(UserWarning, match="is broken.*encoded again"):
        assert torch.equal(encoder(folder, tmp_path).encode([""]), first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(encoder(folder, tmp_path).encode([""]), first)


def test_a_cache_that_cannot_be_written_costs_no_film(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="encoded again next time"):
        out = encoder(folder, tmp_path / "file").encode([""])
    assert torch.equal(out, encoder(folder).encode([""]))


def test_a_cache_is_enough_for_its_own_prompts(folder, tmp_path):
    first = encoder(folder, tmp_path / "cache").encode(PROMPTS)
    alone = encoder(tmp_path / "absent", tmp_path / "cache")
    assert alone.width == 32 and torch.equal(alone.encode(PROMPTS), first)
    with pytest.raises(
        CinelabError,
        match="text_encoder is not there and the prompt 'a new one' is not in the cache",
    ):
        alone.encode(["a new one"])
    with pytest.raises(CinelabError, match="cache \\(none\\)"):
        encoder(tmp_path / "absent").encode([""])


def damaged(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_missing_tokenizer_is_refused(folder, tmp_path):
    shutil.rmtree(damaged(folder, tmp_path) / "tokenizer")
    with pytest.raises(CinelabError, match="tokenizer holds no tokenizer"):
        encoder(tmp_path / "copy").encode(["a"])


def test_a_missing_shard_a_broken_one_and_a_missing_tensor_are_refused(folder, tmp_path):
    shards = sorted((damaged(folder, tmp_path) / "text_encoder").glob("*.safetensors"))
    kept = shards[1].read_bytes()
    shards[1].unlink()
    with pytest.raises(CinelabError, match="cannot be read.*copy text_encoder"):
        encoder(tmp_path / "copy").encode(["a"])
    shards[1].write_bytes(kept[:500])
    with pytest.raises(CinelabError, match="cannot be read"):
        encoder(tmp_path / "copy").encode(["a"])
    shards[1].write_bytes(kept)
    state = load_file(shards[1])
    name = state.popitem()[0]
    save_file(state, shards[1], metadata={"format": "pt"})
    with pytest.raises(CinelabError, match=f"lacks 1 tensors of the encoder \\(first: {name}\\)"):
        encoder(tmp_path / "copy").encode(["a"])


def test_another_encoder_is_refused(folder, tmp_path):
    path = damaged(folder, tmp_path) / "text_encoder/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "t5"}))
    with pytest.raises(CinelabError, match="describes a 't5', not the umt5"):
        encoder(tmp_path / "copy").encode(["a"])


def test_prompts_are_cleaned_alike_everywhere():
    assert clean_prompt(" a\tcat\n\n that  says &quot;hello&quot; ") == 'a cat that says "hello"'
    assert clean_prompt("the robot\u2019s \u201cday\u201d") == 'the robot\'s "day"'
    assert clean_prompt("fish &amp;amp; chips") == "fish & chips"
    assert clean_prompt(" ") == "" and shorten_prompt("x" * 50) == "x" * 37 + "..."


def test_prompts_that_are_prepared_cost_one_reading(folder, tmp_path, monkeypatch):
    reads = []
    load = Umt5Encoder._load
    monkeypatch.setattr(Umt5Encoder, "_load", lambda self: (reads.append(1), load(self))[1])
    encoder = Umt5Encoder(folder, tmp_path / "cache")
    encoder.prepare(["a red cat", "a blue robot", ""])
    for prompt in ("a blue robot", "", "a red cat"):
        encoder.encode([prompt, ""])
    assert len(reads) == 1
    encoder.encode(["a green ghost"])
    assert len(reads) == 2
