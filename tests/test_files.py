"""Files are whole or not there: whatever stops a write, the old file stays and the sentence says
what to do."""

import os

import pytest
from safetensors import SafetensorError

from cinelab.errors import CinelabError
from cinelab.files import write_atomic, write_json

FULL = [
    OSError(28, "No space left on device"),
    SafetensorError("I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_a_full_disk_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    before = path.read_bytes()

    def write(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(CinelabError, match="cannot be written .*free some space"):
        write_atomic(path, write)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.json"]


def test_another_error_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_atomic(tmp_path / "a", lambda temporary: 1 / 0)
    assert not os.listdir(tmp_path)


def test_a_kill_in_mid_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    child = os.fork()
    if child == 0:
        write_atomic(path, lambda temporary: (temporary.write_text("half"), os._exit(9)))
    os.waitpid(child, 0)
    assert path.read_text() == "old"
