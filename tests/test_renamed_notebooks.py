"""Results made under earlier names open under today's."""

import pandas as pd
import pytest

from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.reports.sweep_cells import load_cells
from cinelab.lab.sweeps import renamed
from cinelab.lab.sweeps.measured import read_rows

ROWS = pd.DataFrame({"film": [0, 1], "metric": "identity", "value": [0.0, 1.0], "seed": 0})


def cell(folder, reach):
    """A finished cell of the memory notebook as it was written under the earlier name."""
    folder.mkdir(parents=True)
    ROWS.assign(reach=reach).to_parquet(folder / "rows.parquet")
    parameters = {"policy": "full", "reach": reach, "seed": 0}
    write_json(
        folder / "done.json", {"parameters": parameters, "notebook": "20_ablate_memory.ipynb"}
    )
    write_json(folder / "config.json", parameters)
    (folder / "output.txt").touch()


def test_cells_with_an_earlier_parameter_are_compared_under_its_name_of_today(tmp_path):
    for reach in ("clamp", "none"):
        cell(tmp_path / "reach" / f"reach={reach},seed=0", reach)
    cells = load_cells(tmp_path / "reach")
    assert sorted(cells.rows["max_distance"].unique()) == ["none", "trained"]
    assert "reach" not in cells.rows
    assert [one["max_distance"] for one in cells.table["parameters"]] == ["trained", "none"]


def test_a_setting_of_the_same_name_with_other_values_stays(tmp_path):
    rows = ROWS.assign(reach=[0.5, 0.7])
    rows.to_parquet(tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet")["reach"].tolist() == [0.5, 0.7]
    assert renamed.settings_today({"reach": 3, "a": 1}) == {"reach": 3, "a": 1}
    assert renamed.settings_today({"a": 1, "reach": "clamp"}) == {"a": 1, "max_distance": "trained"}


def test_papermill_is_answered_where_it_passes_on_an_earlier_parameter():
    renamed.refuse_former("20_ablate_memory", {"max_distance": "trained", "chunk": 3})
    with pytest.raises(CinelabError, match="'reach'; it is called max_distance now, and clamp is"):
        renamed.refuse_former("20_ablate_memory", {"policy": "camr", "reach": "clamp"})
