"""Claims that were made and are withdrawn: notebooks, reports and docs print from this one list.

A claim is withdrawn for what was measured under an old edition of its study: an edition fixes what
is trained and measured. Cells state theirs in cell.json and in their rows; those that state none
are of the first.
Rows of a later edition are judged as any others.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

EDITION = {"initialisation": 2, "injectivity": 2}  # study -> what is measured now
SETTINGS = {"init": "initialisation"}  # the setting that only one study's cells have
NOTE = "withdrawn: "


@dataclass(frozen=True)
class Withdrawn:
    """One claim. `about` are the names that it compares; `reason` is a sentence for readers."""

    study: str
    about: frozenset[str]
    claim: str
    reason: str

    def __str__(self) -> str:
        return NOTE + self.reason


def _names(*names: str) -> frozenset[str]:
    return frozenset(names)


CLAIMS = (
    Withdrawn(
        "initialisation",
        _names("causal_ode", "bidirectional_ode"),
        "Causal ODE beats bidirectional ODE: +0.24, +0.17, +0.14 in recall after DMD at 1, 2, 4 "
        "levels.",
        "the baseline had one noise level a clip where Self Forcing draws one a chunk; with one a "
        "chunk the difference in recall at 2 levels is -0.037 [-0.093, 0.028] (3 trainings)",
    ),
    Withdrawn(
        "initialisation",
        _names("causal_ode", "bidirectional_clean"),
        "The teacher alone: causal ODE is sharper and ahead in prompt and recall of the same "
        "student of the bidirectional teacher.",
        "the control isolates nothing: the bidirectional teacher's end points follow their prompt "
        "less (0.899 against 0.950) and keep fewer hidden looks of the past that is given (0.235 "
        "against 0.901), and there is one teacher a kind",
    ),
    Withdrawn(
        "initialisation",
        _names("consistency", "causal_ode"),
        "Consistency is not ahead of causal ODE: prompt lower by 0.010 to 0.014, refuted at 2 and "
        "4 levels.",
        "consistency saw 480 clips in 60 % of the time where causal ODE saw 960; at equal clips "
        "prompt is undecided (-0.005 [-0.013, 0.002], 3 trainings), and 26 looks were not "
        "corrected for",
    ),
    Withdrawn(
        "initialisation",
        _names("cost"),
        "Consistency costs 1.7 times less than causal ODE.",
        "it had half the clips, and the ratio was one of means on a shared machine, without an "
        "interval; at equal clips, taking turns, consistency took 1.1 times causal ODE's time",
    ),
    Withdrawn(
        "initialisation",
        _names("consistency", "none"),
        "Consistency is not ahead of no initialisation.",
        "consistency saw half of the clips that the ODE students saw, and 15 DMD updates end where"
        " results still move",
    ),
    Withdrawn(
        "initialisation",
        _names("none"),
        "DMD makes starts equal: 'none' is behind at 1 level only.",
        "15 DMD updates, 10 of them warm-up, end where results still move, and differences were "
        "not corrected for being many",
    ),
    Withdrawn(
        "injectivity",
        _names("variance"),
        "The unseen decides nothing under the autoregressive teacher and up to 0.27 of a frame "
        "under the bidirectional one.",
        "the zero is the causal mask's, exact by construction and no evidence; the other teacher "
        "was asked under another condition (a past as noisy as the frame), on clips of the "
        "training films",
    ),
    Withdrawn(
        "injectivity",
        _names("history"),
        "Noise on the past brings the variance back.",
        "teacher and student both see that past, so this is sensitivity to the input and says "
        "nothing of injectivity",
    ),
    Withdrawn(
        "injectivity",
        _names("students"),
        "Students keep 0.958 and 0.761 of their teacher's sharpness, because of what the unseen "
        "decides.",
        "the students were measured on the clips that they were trained on, and at most 30 % of "
        "the second one's squared error is what the unseen decides (the mean end point is 0.973 as"
        " sharp)",
    ),
    Withdrawn(
        "memory",
        _names("camr", "full"),
        "CAMR is level with full attention from a budget of 5 on.",
        "no margin was named; within 0.05 it is undecided five (0.042 [0.004, 0.083]) and nine "
        "shots away, and nine shots away inside the trained span it is behind by 0.083 [0.035, "
        "0.132]",
    ),
)
WHOLE = {
    "initialisation": "its starts had unequal clips, time and noise levels "
    "(docs/withdrawn.md says what was wrong)",
    "injectivity": "the teachers were asked under different conditions, and the students on the "
    "clips that they were trained on (docs/withdrawn.md says what was wrong)",
}


def withdrawn(study: str, names: Iterable[str], edition: float) -> str:
    """What stands in place of a verdict on `names` under `edition`; "" where it is judged.

    The closest claim of the list gives the reason, else the study as a whole does.
    """
    if edition >= EDITION.get(study, 1):
        return ""
    wanted = frozenset(names)
    exact = [claim for claim in CLAIMS if claim.study == study and claim.about == wanted]
    return str(exact[0]) if exact else NOTE + WHOLE[study]


def edition_of(rows: pd.DataFrame) -> float:
    """The oldest edition among rows; 1 where none is stated."""
    found = with_edition(rows)["edition"]
    return float(found.min()) if len(found) else 1.0


def with_edition(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its column `edition` filled: 1 where none is stated. Until version 0.2 the
    column was called `protocol`."""
    named = [name for name in ("edition", "protocol") if name in table]
    numbers = pd.to_numeric(table[named[0]]) if named else pd.Series(1.0, index=table.index)
    return table.assign(edition=numbers.fillna(1.0))


def withdrawn_table(*studies: str) -> pd.DataFrame:
    """study, claim and verdict of every withdrawn claim, of the named studies or of all."""
    rows = [
        (claim.study, claim.claim, str(claim))
        for claim in CLAIMS
        if not studies or claim.study in studies
    ]
    return pd.DataFrame(rows, columns=["study", "claim", "verdict"])
