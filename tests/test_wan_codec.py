"""Wan's VAE and the tiny decoder: streaming is the full decode, states are values, files that do
not fit are refused."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_folder import make_vae

from cinelab.errors import CinelabError
from cinelab.latent.codec import state_to, to_uint8
from cinelab.latent.taehv import TinyCodec
from cinelab.latent.wan_codec import VAE_WEIGHTS, WanCodec, check_size, legal_size

SPLITS = [[1, 1, 1, 1], [2, 2], [1, 3], [3, 1]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    make_vae(path := tmp_path_factory.mktemp("model") / "vae")
    return path


@pytest.fixture(scope="module")
def codec(folder):
    return WanCodec.load(folder)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(1)
    codec = TinyCodec().eval().requires_grad_(False)
    for value in codec.parameters():  # as they begin, features die out before the pictures
        value *= 1.7
    return codec


def either(codec, tiny, name):
    return codec if name == "wan" else tiny


def theirs(codec, latents):
    """Latents as diffusers' VAE takes and gives them."""
    return (latents * codec.deviation.transpose(1, 2) + codec.mean.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("name", ["wan", "tiny"])
@pytest.mark.parametrize("split", SPLITS)
def test_streaming_decode_equals_full_decode_bitwise(codec, tiny, name, split):
    codec = either(codec, tiny, name)
    latents = torch.randn(2, 4, 16, 4, 6, generator=torch.manual_seed(2))
    whole, _ = codec.decode(latents)
    parts = []
    state = None
    for part in latents.split(split, dim=1):
        pictures, state = codec.decode(part, state)
        parts.append(pictures)
    assert whole.shape == (2, 13, 3, 32, 48) and whole.std() > 0.05 and whole.abs().max() <= 1
    assert torch.equal(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize("name", ["wan", "tiny"])
def test_channels_last_is_the_same_decode(folder, tiny, name):
    codec = either(WanCodec.load(folder), copy.deepcopy(tiny), name)
    latents = torch.randn(2, 3, 16, 4, 6, generator=torch.manual_seed(2))
    plain, _ = codec.decode(latents)
    assert torch.allclose(codec.channels_last().decode(latents)[0], plain, atol=1e-4)
    weights = [weight for weight in codec.parameters() if weight.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.fixture
def traced(monkeypatch):
    """What torch.compile traces, whole; each program is then run as it was traced."""
    programs = []

    def backend(graph, inputs):
        programs.append(graph)
        return graph.forward

    compiler = torch.compile
    whole = {"backend": backend, "fullgraph": True}
    monkeypatch.setattr(torch, "compile", lambda f, **more: compiler(f, **whole, **more))
    return programs


@pytest.mark.slow
def test_a_compiled_decoder_is_one_program_for_first_second_and_later_latents(folder, traced):
    codec = WanCodec.load(folder)
    latents = torch.randn(1, 4, 16, 4, 6, generator=torch.manual_seed(2))
    plain, _ = codec.decode(latents)
    assert torch.equal(codec.compiled_decoder().decode(latents)[0], plain)
    assert len(traced) == 3


def test_a_compiled_tiny_decoder_is_one_program_for_the_first_and_later_latents(tiny, traced):
    codec = copy.deepcopy(tiny)
    codec.decoder = codec.decoder[:10]  # all kinds of layers
    latents = torch.randn(1, 3, 16, 4, 6, generator=torch.manual_seed(2))
    plain, _ = codec.decode(latents)
    assert torch.equal(codec.compiled_decoder().decode(latents)[0], plain)
    assert len(traced) == 2


def test_decode_and_encode_equal_diffusers(codec):
    latents = torch.randn(1, 3, 16, 4, 6, generator=torch.manual_seed(3))
    frames, _ = codec.decode(latents)
    with torch.no_grad():
        assert torch.allclose(
            codec.vae.decode(theirs(codec, latents)).sample.transpose(1, 2), frames, atol=1e-6
        )
        z = codec.vae.encode(frames.transpose(1, 2)).latent_dist.mode()
    assert torch.allclose(theirs(codec, codec.encode(frames)), z, atol=1e-5)


def test_streaming_encode_equals_full_encode_bitwise(codec):
    frames = torch.rand(1, 13, 3, 32, 48, generator=torch.manual_seed(4)) * 2 - 1
    whole = codec.encode(frames)
    first, state = codec.encode_part(frames[:, :5])
    second, _ = codec.encode_part(frames[:, 5:], state)
    assert whole.shape == (1, 4, 16, 4, 6) and torch.equal(torch.cat([first, second], dim=1), whole)


@pytest.mark.parametrize("name", ["wan", "tiny"])
def test_two_branches_go_on_from_one_state(codec, tiny, name):
    """What one branch decodes changes neither the state nor the other branch."""
    codec = either(codec, tiny, name)
    common, one, other = torch.randn(3, 1, 2, 16, 4, 6, generator=torch.manual_seed(5)).unbind(0)
    _, state = codec.decode(common)
    kept = [entry.clone() if isinstance(entry, torch.Tensor) else entry for entry in state]
    first, after = codec.decode(one, state)
    second, _ = codec.decode(other, state)
    again, _ = codec.decode(one, state)
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(kept, state, strict=True)
    )
    assert (
        torch.equal(codec.decode(torch.cat([common, one], dim=1))[0][:, 5:], first)
        and after is not state
    )


@pytest.mark.parametrize("name", ["wan", "tiny"])
def test_films_in_turn_share_one_codec(codec, tiny, name):
    codec = either(codec, tiny, name)
    films = torch.randn(2, 1, 3, 16, 4, 6, generator=torch.manual_seed(6)).unbind(0)
    states = [None, None]
    parts = [[], []]
    for place in range(3):
        for number, film in enumerate(films):
            pictures, states[number] = codec.decode(film[:, place : place + 1], states[number])
            parts[number].append(pictures)
    for film, made in zip(films, parts, strict=True):
        assert torch.equal(torch.cat(made, dim=1), codec.decode(film)[0])


def test_a_state_moves_as_a_whole(codec):
    # holds tensors, and words where nothing has come yet
    _, state = codec.decode(torch.zeros(1, 1, 16, 2, 2))
    there = state_to(state, "meta")
    assert {type(entry) for entry in state} >= {torch.Tensor, str}
    assert all(
        entry.is_meta if isinstance(entry, torch.Tensor) else entry == was
        for entry, was in zip(there, state, strict=True)
    )
    assert state_to(state, "cpu") == state and state_to(None, "meta") is None


def test_half_precision_stays_near(folder, codec):
    latents = torch.randn(1, 3, 16, 4, 6, generator=torch.manual_seed(7))
    full = codec.decode(latents)[0]
    half = WanCodec.load(folder, torch.bfloat16).decode(latents.bfloat16())[0]
    assert half.dtype == torch.bfloat16 and to_uint8(half).dtype == "uint8"
    assert (full - half).abs().mean() < 0.02 and not torch.equal(full, half.float())


# ---- the tiny codec


def published() -> dict[str, tuple[int, ...]]:
    """Every parameter of taew2_1 with its shape."""

    def block(name: str, width: int) -> dict:
        return {
            f"{name}.conv.{at}.{kind}": (width, 2 * width if at == 0 else width, 3, 3)
            if kind == "weight"
            else (width,)
            for at in (0, 2, 4)
            for kind in ("weight", "bias")
        }

    keys = {
        "encoder.0.weight": (64, 3, 3, 3),
        "encoder.0.bias": (64,),
        "encoder.17.weight": (16, 64, 3, 3),
        "encoder.17.bias": (16,),
        "encoder.2.conv.weight": (64, 128, 1, 1),
        "encoder.3.weight": (64, 64, 3, 3),
        "encoder.7.conv.weight": (64, 128, 1, 1),
        "encoder.8.weight": (64, 64, 3, 3),
        "encoder.12.conv.weight": (64, 64, 1, 1),
        "encoder.13.weight": (64, 64, 3, 3),
        "decoder.1.weight": (256, 16, 3, 3),
        "decoder.1.bias": (256,),
        "decoder.22.weight": (3, 64, 3, 3),
        "decoder.22.bias": (3,),
        "decoder.7.conv.weight": (256, 256, 1, 1),
        "decoder.8.weight": (128, 256, 3, 3),
        "decoder.13.conv.weight": (256, 128, 1, 1),
        "decoder.14.weight": (64, 128, 3, 3),
        "decoder.19.conv.weight": (128, 64, 1, 1),
        "decoder.20.weight": (64, 64, 3, 3),
    }
    for at in (4, 5, 6, 9, 10, 11, 14, 15, 16):
        keys |= block(f"encoder.{at}", 64)
    for width, places in ((256, (3, 4, 5)), (128, (9, 10, 11)), (64, (15, 16, 17))):
        for at in places:
            keys |= block(f"decoder.{at}", width)
    return keys


def test_the_tiny_codec_has_the_published_keys(tiny):
    assert {name: tuple(value.shape) for name, value in tiny.state_dict().items()} == published()
    assert sum(value.numel() for value in tiny.parameters()) == 11_315_539


def test_the_tiny_codec_streams_what_one_pass_decodes(tiny):
    latents = torch.randn(1, 4, 16, 4, 6, generator=torch.manual_seed(8))
    frames, _ = tiny.decode(latents)
    assert (tiny.decode_at_once(latents) - frames).abs().max() <= 1e-5
    changed = latents.clone()
    changed[:, 3] = 0  # nothing looks ahead
    assert torch.equal(tiny.decode(changed)[0][:, :9], frames[:, :9]) and not torch.equal(
        tiny.decode(changed)[0], frames
    )


def test_the_tiny_codec_encodes(tiny):
    frames = torch.rand(1, 9, 3, 32, 48, generator=torch.manual_seed(9)) * 2 - 1
    latents = tiny.encode(frames)
    assert latents.shape == (1, 3, 16, 4, 6)
    still = torch.cat([frames, frames[:, -1:].expand(-1, 4, -1, -1, -1)], dim=1)
    # filled up with its last frame
    assert torch.allclose(tiny.encode(still)[:, :3], latents, atol=1e-5)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_the_tiny_codec_is_read_from_either_file(tiny, tmp_path, suffix):
    path = tmp_path / f"taew2_1.{suffix}"
    state = tiny.state_dict()
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    latents = torch.randn(1, 2, 16, 2, 4)
    assert torch.equal(TinyCodec.load(path).decode(latents)[0], tiny.decode(latents)[0])


def test_a_decoder_alone_decodes_and_says_what_it_cannot(tiny, tmp_path):
    save_file(
        {name: value for name, value in tiny.state_dict().items() if name.startswith("decoder")},
        path := tmp_path / "d.safetensors",
    )
    alone = TinyCodec.load(path, torch.bfloat16)
    assert alone.decode(torch.zeros(1, 1, 16, 2, 2))[0].shape == (1, 1, 3, 16, 16)
    with pytest.raises(CinelabError, match="no encoder"):
        alone.encode(torch.zeros(1, 1, 3, 16, 16))


# ---- what does not fit


@pytest.mark.parametrize(
    "size, near",
    [
        ((480, 832), (480, 832)),
        ((720, 1280), (720, 1280)),
        ((479, 830), (480, 832)),
        ((1, 1), (16, 16)),
        ((1080, 1920), (1088, 1920)),
    ],
)
def test_sizes(size, near):
    assert legal_size(*size) == near
    if size == near:
        assert check_size(size) == size
        return
    with pytest.raises(CinelabError, match=f"{size[0]}x{size[1]}.*use {near[0]}x{near[1]}"):
        check_size(size)


@pytest.mark.parametrize("name", ["wan", "tiny"])
def test_clips_and_latents_that_do_not_fit_are_refused(codec, tiny, name):
    codec = either(codec, tiny, name)
    with pytest.raises(CinelabError, match="8 frames do not fit 1 \\+ 4 n"):
        codec.encode(torch.zeros(1, 8, 3, 16, 16))
    with pytest.raises(CinelabError, match="24x33.*use 32x32"):
        codec.encode(torch.zeros(1, 1, 3, 24, 33))
    with pytest.raises(CinelabError, match="wanted \\(B, N, 16, h, w\\)"):
        codec.decode(torch.zeros(1, 1, 24, 2, 2))


def test_later_parts_come_in_fours(codec):
    _, state = codec.encode_part(torch.zeros(1, 1, 3, 16, 16))
    with pytest.raises(CinelabError, match="5 frames do not fit 4 n"):
        codec.encode_part(torch.zeros(1, 5, 3, 16, 16), state)


def test_a_folder_that_holds_no_vae_is_refused(tmp_path):
    with pytest.raises(CinelabError, match="holds no VAE"):
        WanCodec.load(tmp_path)


def broken(folder, tmp_path, change):
    """A copy of the VAE's folder with other weights."""
    state = load_file(folder / VAE_WEIGHTS)
    change(state)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(state, tmp_path / VAE_WEIGHTS)
    return tmp_path


@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda state: state.pop("decoder.conv_in.weight"),
            "1 keys missing.*decoder.conv_in.weight, found absent",
        ),
        (lambda state: state.update(more=torch.zeros(1)), "1 unknown"),
        (
            lambda state: state.update({"quant_conv.bias": torch.zeros(8)}),
            "found \\(8,\\), expected \\(32,\\)",
        ),
    ],
)
def test_weights_of_another_vae_are_refused(folder, tmp_path, change, said):
    with pytest.raises(CinelabError, match=said):
        WanCodec.load(broken(folder, tmp_path, change))


def test_a_vae_cut_short_or_of_another_class_is_refused(folder, tmp_path):
    path = broken(folder, tmp_path, lambda state: None)
    (path / VAE_WEIGHTS).write_bytes((folder / VAE_WEIGHTS).read_bytes()[:5000])
    with pytest.raises(CinelabError, match="cut short or broken"):
        WanCodec.load(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderKL"}))
    with pytest.raises(CinelabError, match="'AutoencoderKL', not an AutoencoderKLWan"):
        WanCodec.load(path)
    (path / "config.json").write_text(json.dumps(config | {"is_residual": True, "patch_size": 2}))
    with pytest.raises(CinelabError, match="Wan2.2"):
        WanCodec.load(path)


def test_wrong_tiny_weights_are_refused(tmp_path, tiny):
    with pytest.raises(CinelabError, match="is not there"):
        TinyCodec.load(tmp_path / "absent.pth")
    save_file(
        tiny.state_dict() | {"decoder.1.weight": torch.zeros(256, 48, 3, 3)},
        path := tmp_path / "taew2_2.safetensors",
    )
    with pytest.raises(
        CinelabError, match="found \\(256, 48, 3, 3\\), expected \\(256, 16, 3, 3\\).*taew2_1"
    ):
        TinyCodec.load(path)
    (broken := tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(CinelabError, match="cut short, broken or not plain tensors"):
        TinyCodec.load(broken)
