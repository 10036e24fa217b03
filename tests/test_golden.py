"""Films, sessions, training steps and scores are, bit for bit, the recorded ones.

Under other conditions (another torch, processor or CPU capability) the coarse fingerprints must
agree instead. A change that is meant to alter results records them anew, see goldens.py.
"""

import warnings

import fingerprints
import goldens
import pytest
import torch

ENTRIES = [(group, name) for group, entries in goldens.GROUPS.items() for name in entries]


@pytest.fixture(autouse=True)
def one_thread():
    """The order of a sum depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("group, name", ENTRIES, ids=["/".join(entry) for entry in ENTRIES])
def test_results_are_the_recorded_ones(group, name, tmp_path):
    golden = goldens.recorded(group)
    tolerance = tolerance_of(golden["conditions"], name)
    found, wanted = goldens.computed(group, name, tmp_path), golden["entries"][name]
    assert found.keys() == wanted.keys()
    differences = {
        key: fingerprints.difference(found[key], wanted[key], tolerance) for key in wanted
    }
    assert not any(differences.values()), {key: text for key, text in differences.items() if text}


def tolerance_of(recorded: dict, name: str) -> float | None:
    """Return None where the bits must agree; elsewhere say so, since fingerprints prove less."""
    present = fingerprints.present_conditions()
    if present == recorded:
        return None
    warnings.warn(
        f"Compared by fingerprints: recorded under {recorded}, run under {present}.", stacklevel=2
    )
    return fingerprints.TOLERANCES.get(name, fingerprints.TOLERANCE)


@pytest.mark.parametrize("group", goldens.GROUPS)
def test_every_recorded_entry_is_computed(group):
    assert goldens.recorded(group)["entries"].keys() == goldens.GROUPS[group].keys()


def test_a_changed_bit_is_noticed():
    value = torch.arange(1.0, 100.0)
    recorded = fingerprints.summary(value)
    close = fingerprints.summary(value.nextafter(torch.tensor(1e3)))
    assert fingerprints.difference(fingerprints.summary(value.clone()), recorded, None) == ""
    assert fingerprints.difference(close, recorded, fingerprints.TOLERANCE) == ""
    assert "recorded was" in fingerprints.difference(close, recorded, None)
    assert "recorded was" in fingerprints.difference(
        fingerprints.summary(-value), recorded, fingerprints.TOLERANCE
    )
    assert "shape" in fingerprints.difference(
        fingerprints.summary(value[1:]), recorded, fingerprints.TOLERANCE
    )
