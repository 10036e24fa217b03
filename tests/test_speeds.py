"""A speed by its name: in settings, on the command line, and in what a film says of itself."""

import pytest
from typer.testing import CliRunner

from cinelab.cli.commands import app
from cinelab.errors import CinelabError
from cinelab.memory.policy import CAMR
from cinelab.scale.acceleration import SPEEDS, Speed, running_speed
from cinelab.script.screenplay import Screenplay, Shot
from cinelab.stream.director import Director
from cinelab.zoo.accelerated import load_at_speed
from cinelab.zoo.wan import WanSettings

PLAY = Screenplay("One", (Shot("wide shot of a red cat that waves in the meadow by day", 0.5),))


@pytest.fixture
def uncompiled(monkeypatch):
    """`compiled` without torch.compile, which is tested elsewhere and takes its time."""
    monkeypatch.setitem(SPEEDS, "compiled", Speed(fused_qkv=True))


def test_settings_name_a_speed_and_their_options_go_before_it():
    assert WanSettings().running == Speed()
    assert WanSettings(speed="fast").running == SPEEDS["fast"]
    one = WanSettings(speed="fast", kernel="sdpa", fallback="exact").running
    assert (one.kernel, one.linears, one.fallback) == ("sdpa", "fp8", "exact")
    assert WanSettings(compiled=True, linears="fp8").running == Speed(compiled=True, linears="fp8")
    with pytest.raises(CinelabError, match="use one of exact, compiled, fast"):
        WanSettings(speed="quick")
    with pytest.raises(CinelabError, match="without compiled"):
        WanSettings(linears="fp8")


def test_a_film_of_another_speed_says_so_and_an_exact_one_is_as_it_was(uncompiled):
    infos = {}
    for speed in (None, "exact", "compiled"):
        director = Director(load_at_speed("toybox-1step", speed), CAMR(budget=3))
        infos[speed] = director.info(PLAY)
    assert infos[None] == infos["exact"] and "speed" not in infos["exact"]
    assert infos["compiled"]["speed"]["mode"] == "fast"


def test_what_cannot_be_had_is_exact_only_where_that_was_requested(monkeypatch):
    monkeypatch.setitem(SPEEDS, "fast", Speed(graphs=True, fused_qkv=True))
    with pytest.raises(CinelabError, match="not on a GPU"):
        load_at_speed("toybox-1step", "fast", device="cpu")
    with pytest.warns(UserWarning, match="runs as exact"):
        bundle = load_at_speed("toybox-1step", "fast", fallback=True, device="cpu")
    assert running_speed(bundle.model) == Speed()


def test_the_command_line_refuses_an_unknown_speed(tmp_path):
    play = tmp_path / "play.yaml"
    PLAY.save(play)
    result = CliRunner().invoke(app, ["direct", str(play), "--speed", "quick"])
    assert result.exit_code != 0
    assert "exact, compiled, fast" in str(result.exception) + result.output
