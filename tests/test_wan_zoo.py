"""A folder of Wan's true layout is a model like any other: films, sessions, the desk, the command
line; or one sentence."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_folder import make_wan_folder

from cinelab import CAMR, Director, Full, Sampling, Screenplay, Shot, load
from cinelab.config import to_dict
from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.flow.rollout import ChunkRequest, noise_for
from cinelab.latent.taehv import TinyCodec
from cinelab.latent.wan_codec import WanCodec
from cinelab.memory.cache import KVCache
from cinelab.memory.policy_io import policy_to_dict
from cinelab.script.prompts import TextEncoder
from cinelab.script.timeline import plan
from cinelab.script.unconditional import PUBLISHED
from cinelab.stream.batch import embed, empty_cache, stream
from cinelab.stream.generator import KEPT_BYTES, ChunkGenerator
from cinelab.stream.session import Session, Settings
from cinelab.zoo.wan import FEW, WanSettings, load_wan, settings_of

SIZE = (32, 48)
PLAY = Screenplay(
    "Three",
    (
        Shot("wide shot of a red cat that waves at the beach", 1.5),
        Shot("a blue robot walks in the city", 1.0),
        Shot("close shot of a red cat", 0.5),
    ),
    seed=3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = make_wan_folder(tmp_path_factory.mktemp("models") / "Wan2.1-T2V-tiny-Diffusers")
    (path / "cinelab.json").write_text(json.dumps({"size": SIZE, "dtype": "fp32"}))
    return path


@pytest.fixture(scope="module")
def bundle(folder):
    return load_wan(folder, device="cpu")


@pytest.fixture(scope="module")
def film(bundle):
    return Director(bundle, CAMR(budget=2)).render(PLAY)


def copied(folder, tmp_path, *without):
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns(*without))
    return tmp_path / "copy"


# ---- what is loaded


def test_a_folder_is_loaded_with_the_settings_of_a_few_step_student(bundle, folder):
    assert bundle.sampling == FEW and FEW.levels().tolist() == pytest.approx(
        [1, 0.9375, 5 / 6, 0.625, 0]
    )
    assert (bundle.chunk, bundle.span, bundle.fps, bundle.size) == (3, 21, 16.0, SIZE)
    assert (
        bundle.latent_shape == (16, 4, 6) and bundle.codec.stride == 4 and bundle.max_distance == 20
    )
    stored = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    assert all(
        torch.equal(stored[name], value) for name, value in bundle.model.state_dict().items()
    )
    assert WanSettings().size == (480, 832) and settings_of(folder) == WanSettings(
        size=SIZE, dtype="fp32"
    )
    encoder: TextEncoder = bundle.encoder
    assert encoder.encode(["a"]).shape == (1, 512, 32) and (encoder.width, encoder.length) == (
        32,
        512,
    )


def test_the_name_of_the_folder_is_enough(folder, bundle):
    again = load(str(folder), "cpu")
    assert (
        again.fingerprint == bundle.fingerprint and again.name == str(folder) and again.size == SIZE
    )
    assert load("toybox-2step").fingerprint != bundle.fingerprint


def test_given_settings_go_before_those_of_the_folder(folder, tmp_path):
    path = copied(folder, tmp_path)
    said = {
        "size": [64, 64],
        "dtype": "fp32",
        "chunk": 1,
        "sampling": {"steps": 2, "at": [1.0, 0.5], "first_steps": 4},
    }
    (path / "cinelab.json").write_text(json.dumps(said))
    two = load_wan(path, size=SIZE, device="cpu")
    assert two.size == SIZE and two.chunk == 1 and two.fps == 16.0
    assert two.sampling == replace(FEW, steps=2, at=(1.0, 0.5), first_steps=4)
    assert two.sampling.levels(first=True).tolist() == FEW.levels().tolist()
    # the rest is the folder's
    few = load_wan(path, sampling=Sampling(steps=3), dtype=torch.bfloat16, device="cpu").sampling
    assert few == replace(two.sampling, steps=3, at=(), first_steps=None)
    one = load_wan(
        path,
        sampling=replace(FEW, steps=1, at=(1.0,), first_steps=4),
        dtype=torch.bfloat16,
        device="cpu",
    )
    assert (
        one.sampling.levels().tolist() == [1.0, 0.0]
        and one.model.proj_out.weight.dtype == torch.bfloat16
    )
    assert (
        two.codec.dtype == torch.float32 and one.codec.dtype == one.encoder.dtype == torch.bfloat16
    )


def test_a_student_takes_the_place_of_the_transformer(folder, tmp_path):
    path = copied(folder, tmp_path, "transformer")
    state = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    # says the size, where heads are not the published 128 wide
    shutil.copy(folder / "transformer/config.json", tmp_path)
    wrapped = {f"model._fsdp_wrapped_module.{name}": value + 1 for name, value in state.items()}
    torch.save(
        {
            "generator": {f"model.{name}": value for name, value in state.items()},
            "generator_ema": wrapped,
        },
        tmp_path / "student.pt",
    )
    ema = load_wan(path, weights=tmp_path / "student.pt", device="cpu")
    plain = load_wan(path, weights=tmp_path / "student.pt", part="generator", device="cpu")
    assert (
        torch.equal(ema.model.proj_out.bias, state["proj_out.bias"] + 1)
        and ema.config["part"] == "generator_ema"
    )
    assert torch.equal(plain.model.proj_out.bias, state["proj_out.bias"])
    (path / "cinelab.json").write_text(
        json.dumps({"weights": "../student.pt", "size": SIZE, "dtype": "fp32"})
    )
    assert torch.equal(load(path, "cpu").model.proj_out.bias, ema.model.proj_out.bias)


def test_the_tiny_codec_takes_the_place_of_the_vae(folder, tmp_path):
    path = copied(folder, tmp_path, "vae")
    torch.manual_seed(0)
    save_file(TinyCodec().state_dict(), path / "taew2_1.safetensors")
    made = load_wan(path, codec=f"tiny:{path}/taew2_1.safetensors", device="cpu")
    assert isinstance(made.codec, TinyCodec)
    (path / "cinelab.json").write_text(
        json.dumps({"codec": "tiny:taew2_1.safetensors", "size": SIZE, "dtype": "fp32"})
    )
    film = Director(load(path, "cpu"), Full()).render(replace(PLAY, shots=PLAY.shots[:1]))
    assert film.frames.shape == (21, *SIZE, 3)


# ---- what it does


def test_a_film_is_made_and_saved(film, bundle, tmp_path):
    assert (
        film.frames.shape == (film.timeline.pixel_frames, *SIZE, 3)
        and film.timeline.pixel_frames == 1 + 4 * 14
    )
    assert film.frames.std() > 3 and len(film.cuts) == 2 and set(film.routing["kind"]) >= {"routed"}
    assert (film.save(tmp_path) / "film.mp4").stat().st_size > 1000
    again = Director(bundle, CAMR(budget=2)).render(PLAY)
    assert np.array_equal(film.frames, again.frames)


def test_the_batch_roll_out_makes_the_same_film(film, bundle):
    line = film.timeline
    made = stream(
        bundle, [line, line], KVCache(CAMR(budget=2), bundle.chunk, bundle.max_distance), [3, 4]
    )
    frames = np.concatenate([timed.frames for timed in made], axis=1)
    # a batch of two: equal to rounding
    assert np.abs(frames[0].astype(int) - film.frames).mean() < 0.5
    assert not np.array_equal(frames[0], frames[1])


@pytest.mark.parametrize("bf16", [False, True])
def test_half_precision_weights_make_nearly_the_same_velocity(folder, bundle, bf16):
    half = load_wan(folder, dtype="bf16", device="cpu")
    x = noise_for([1], 0, (3, *bundle.latent_shape))
    slot = torch.zeros(1, 3, dtype=torch.long)
    text = bundle.encoder.encode(["a red cat"])[None]
    out = []
    for one in (bundle, half):
        cache = KVCache(Full(), 3, one.max_distance)
        opened = cache.open(0, torch.zeros(1, dtype=torch.long))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16 and one is half):
            out.append(one.model(x, torch.full((1, 3), 0.8), Condition(text, slot), opened))
    assert (
        out[1].dtype == torch.float32
        and 0 < (out[0] - out[1]).abs().mean() < 0.03 * out[0].abs().mean()
    )


def test_a_session_goes_on_bit_for_bit_and_branches(folder, bundle, tmp_path):
    session = Session.create(
        tmp_path / "s", bundle, Settings(prompt="a red cat waves", policy="camr", budget=3)
    )
    for _ in range(2):
        session.step()
    session.do("cut", text="a blue robot walks")
    session.step()
    through = session.step().frames
    again = Session.resume(tmp_path / "s", load(folder, "cpu"))
    again.do("branch", chunk=2)
    # memory and decoder are made again from the latents
    assert np.array_equal(again.step().frames, through)
    again.do("branch", chunk=1)
    again.do("prompt", text="close shot of a red cat", switch="recache")
    other = again.step()
    assert other.frames.shape == through.shape and not np.array_equal(other.frames, through)
    assert again.frames(3).shape == (1 + 4 * 11, *SIZE, 3)


def test_a_session_of_other_weights_is_refused(bundle, tmp_path):
    Session.create(tmp_path / "s", bundle, Settings(prompt="a red cat"))
    other = load_wan(
        make_wan_folder(tmp_path / "other", seed=9), size=SIZE, dtype="fp32", device="cpu"
    )
    with pytest.raises(CinelabError, match="not with these weights"):
        Session.resume(tmp_path / "s", other)


def test_a_picture_begins_a_film_of_a_frame_wise_model(folder):
    bundle = load_wan(folder, chunk=1, device="cpu")
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    director = Director(bundle, Full())
    play = replace(PLAY, shots=PLAY.shots[2:])
    film = director.render(play, first=picture)
    free = director.render(play)
    with torch.no_grad():
        latent = bundle.codec.encode(
            torch.from_numpy(picture).movedim(-1, 0)[None, None].float() / 127.5 - 1
        )
    assert torch.equal(director.opening(picture), latent)
    assert len(film.frames) == len(free.frames) and not np.array_equal(
        film.frames[-1], free.frames[-1]
    )
    chunks = [timed.latents for timed in director.stream(play, first=picture)]
    assert torch.equal(chunks[0], latent)
    line = director.timeline(play)
    given = stream(
        bundle, [line], KVCache(Full(), 1, bundle.max_distance), [PLAY.seed], given=latent
    )
    assert torch.allclose(next(iter(list(given)[-1:])).latents, chunks[-1], atol=1e-4)


def test_pictures_that_cannot_begin_a_film_are_refused(folder, bundle):
    picture = np.zeros((*SIZE, 3), np.uint8)
    with pytest.raises(CinelabError, match="makes 3 at a time; load a frame-wise model"):
        Director(bundle).render(PLAY, first=picture)
    frame_wise = Director(load_wan(folder, chunk=1, device="cpu"))
    for wrong, said in (
        (picture[:16], "uint8 \\(16, 48, 3\\)"),
        (picture / 255.0, "float64"),
        ("cat.png", "str"),
    ):
        with pytest.raises(CinelabError, match=f"{said}.*uint8 \\(32, 48, 3\\) is expected"):
            frame_wise.render(PLAY, first=wrong)


def test_a_toybox_film_may_begin_with_a_picture_too():
    director = Director(load("toybox-1step"))
    play = Screenplay("One", (Shot("a red cat waves in the meadow by day", 0.5),))
    picture = director.render(play).frames[-1]
    film = director.render(replace(play, seed=5), first=picture)
    assert np.abs(film.frames[0].astype(int) - picture).mean() < 10


def test_the_command_line_and_the_desk_take_the_folder(folder, bundle, tmp_path):
    from cinelab.lab.desk.view import desk_facts
    from cinelab.lab.first_film import direct_film

    out = direct_film(PLAY, tmp_path / "film", str(folder), budget=3, steps=1)
    assert json.loads((out / "film.json").read_text())["model"] == str(folder)
    told = desk_facts(Session.create(tmp_path / "s", bundle))
    assert (
        told["words"] == told["phrases"] == [] and told["size"] == list(SIZE) and json.dumps(told)
    )


def test_few_large_prompts_stay_at_hand(bundle, monkeypatch):
    reel = ChunkGenerator(bundle)
    size = sum(part.nbytes for pair in reel.prompts("a").text for part in pair)
    assert size < KEPT_BYTES
    monkeypatch.setattr("cinelab.stream.generator.KEPT_BYTES", 2 * size)
    for prompt in "bcd":
        reel.prompts(prompt)
    assert list(reel._prompts) == ["c", "d"]


# ---- what does not fit


@pytest.mark.parametrize(
    "said, wanted",
    [
        ({"chunk": 0}, "'chunk' is 0"),
        ({"size": [480, 830]}, "480x830.*use 480x832"),
        ({"dtype": "int8"}, "dtype is 'int8'; use one of fp32"),
        ({"kernel": "magic"}, "kernel is 'magic'"),
        ({"codec": "tiny"}, "codec is 'tiny'"),
        ({"encoder": "gone"}, "encoder is 'gone'"),
        ({"chunks": 1}, "cinelab.json: Unknown setting 'chunks': did you mean 'chunk'"),
        ({"sampling": {"step": 1}}, "sampling.step'"),
        ({"fps": "16"}, "fps.*float is wanted"),
        ([1], "holds a list"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder, tmp_path, said, wanted):
    path = copied(folder, tmp_path)
    (path / "cinelab.json").write_text(json.dumps(said))
    with pytest.raises(CinelabError, match=wanted):
        load(path, "cpu")


@pytest.mark.parametrize(
    "without, wanted",
    [
        ("vae", "vae holds no VAE"),
        ("transformer", "holds no transformer weights"),
        ("diffusion_pytorch_model.safetensors", "holds no VAE|transformer"),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused(folder, tmp_path, without, wanted):
    with pytest.raises(CinelabError, match=wanted):
        load(copied(folder, tmp_path, without), "cpu")


def test_a_folder_without_text_encoder_makes_films_of_prompts_it_knows(folder, film, tmp_path):
    bundle = load(copied(folder, tmp_path, "text_encoder", "tokenizer"), "cpu")
    assert np.array_equal(Director(bundle, CAMR(budget=2)).render(PLAY).frames, film.frames)
    with pytest.raises(CinelabError, match="text_encoder is not there and the prompt 'a new one'"):
        Director(bundle).render(replace(PLAY, shots=(Shot("a new one", 1.0),)))


def test_a_wrong_folder_is_told_what_it_is(tmp_path):
    with pytest.raises(CinelabError, match="absent is not a folder"):
        load_wan(tmp_path / "absent")
    with pytest.raises(CinelabError, match="no diffusers folder of Wan2.1 \\(found nothing\\)"):
        load_wan(tmp_path)
    (tmp_path / "Wan2.1_VAE.pth").write_bytes(b"")
    with pytest.raises(CinelabError, match="original layout.*weights="):
        load(tmp_path)


def test_parts_of_different_models_are_refused(folder, tmp_path):
    make_wan_folder(tmp_path / "a", text_dim=48)
    with pytest.raises(CinelabError, match="reads prompts 48 wide, but the text encoder.*makes 32"):
        load(tmp_path / "a", "cpu")
    make_wan_folder(tmp_path / "b", in_channels=36)
    with pytest.raises(CinelabError, match="takes 36 channels and gives 16, but the codec.*has 16"):
        load(tmp_path / "b", "cpu")


def test_everyday_code_does_not_import_the_large_libraries():
    """A toybox film, and the very settings of Wan, without diffusers or transformers."""
    import subprocess
    import sys

    code = (
        "import sys, cinelab, cinelab.zoo.wan, cinelab.script.umt5; "
        "cinelab.load('toybox-1step'); "
        "print([name for name in ('diffusers', 'transformers', 'accelerate') if name in "
        "sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_sampling_and_codec_are_what_the_protocols_say(bundle):
    assert isinstance(bundle.sampling, Sampling) and isinstance(bundle.codec, WanCodec)


def test_half_floats_on_a_cpu_are_refused(folder):
    with pytest.raises(CinelabError, match="use bf16"):
        load_wan(folder, dtype="fp16", device="cpu")


# ---- how far back a film looks, what it was trained under, and what guidance compares with


def test_the_reach_is_a_setting(folder, tmp_path):
    path = copied(folder, tmp_path)
    assert load_wan(path, size=SIZE, device="cpu").max_distance == 20  # span - 1, as it always was
    free = load_wan(path, size=SIZE, max_distance=None, device="cpu")
    assert free.max_distance is None and empty_cache(free, Full()).max_distance is None
    (path / "cinelab.json").write_text(json.dumps({"size": SIZE, "dtype": "fp32", "reach": None}))
    assert (
        load(path, "cpu").max_distance is None
        and load_wan(path, max_distance=7, device="cpu").max_distance == 7
    )
    (path / "cinelab.json").write_text(json.dumps({"size": SIZE, "dtype": "fp32", "reach": 0}))
    with pytest.raises(CinelabError, match="max_distance of a Wan folder is 0; give latent frames"):
        load(path, "cpu")


def test_a_student_that_was_trained_here_is_directed_as_it_was_trained(folder, tmp_path):
    """The export of a job beside the folder: its config.json goes before the defaults, cinelab.json
    and arguments before it."""
    path = copied(folder, tmp_path)
    export = tmp_path / "export"
    export.mkdir()
    shutil.copy(
        folder / "transformer/diffusion_pytorch_model.safetensors", export / "weights.safetensors"
    )
    config = load_wan(path, size=SIZE, device="cpu").model.config
    policy = CAMR(budget=2, per_head=False, positions="packed")
    said = {
        "model": to_dict(config),
        "stage": "dmd",
        "sampling": to_dict(replace(FEW, steps=2, at=())),
        "chunk": 1,
        "span": 9,
        "policy": policy_to_dict(policy),
        "reach": 8,
    }
    (export / "config.json").write_text(json.dumps(said))
    made = load_wan(path, weights=export, device="cpu")
    assert Director(made).policy == policy and (made.chunk, made.span, made.max_distance) == (
        1,
        9,
        8,
    )
    assert made.sampling == replace(FEW, steps=2, at=())
    given = {
        "policy": {"name": "Full"},
        "chunk": 3,
        "size": SIZE,
        "dtype": "fp32",
        "weights": "../export",
    }
    (path / "cinelab.json").write_text(json.dumps(given))
    made = load(path, "cpu")
    assert Director(made).policy == Full() and (made.chunk, made.max_distance) == (3, 8)


def test_guidance_compares_with_the_published_negative_prompt_unless_told_otherwise(folder, bundle):
    assert bundle.unconditional == "published"
    line = plan(PLAY, bundle.fps, 4, 3)
    guided = replace(FEW, guidance=3.0)
    asked = bundle.encoder.encode([PUBLISHED])[0]
    assert torch.equal(embed(bundle, [line])[0, -1], asked)
    empty = replace(bundle, unconditional="")
    films = {}
    for name, one in (("published", bundle), ("empty", empty)):
        reel = ChunkGenerator(one)
        ask = ChunkRequest("a red cat", seed=1, policy=Full(), sampling=guided)
        films[name] = reel.step(reel.begin(), ask, decode=False)[1].latents
        short = Screenplay("One", (Shot("a red cat", 0.1),), seed=1)
        streamed = next(
            stream(
                one,
                [plan(short, 16.0, 4, 3)],
                empty_cache(one, Full()),
                [1],
                guided,
                decode=False,
            )
        ).latents
        assert torch.equal(films[name], streamed)
    assert not torch.equal(films["published"], films["empty"])
    assert (
        WanSettings().unconditional == "published"
        and load_wan(folder, unconditional="", device="cpu").unconditional == ""
    )
