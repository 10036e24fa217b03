"""The inspector's own sample keeps the promise of the notebooks, and its figures count and order as
they say."""

import numpy as np
import pandas as pd
import pytest

from cinelab.lab.desk import inspector
from cinelab.lab.desk.inspector import agreement, compare_memories, erasures, heads_of, retrieved
from cinelab.stream.attention_shares import attention_shares, scores_attention
from cinelab.stream.whatif import Change, chunk_shares, shares


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return inspector.sample_session(tmp_path_factory.mktemp("sample") / "session")


def test_the_erased_shot_that_shows_most_is_the_one_that_was_attended_to_most(session):
    _, table = erasures(session)
    assert table["memory"].tolist()[1:] == ["without shot 1", "without shot 2", "without shot 3"]
    lost = table[inspector.DIFFERENCE][1:]
    seen = table[inspector.SHARE][1:]
    assert lost.idxmax() == seen.idxmax() == 1 and seen[1] > 0.5 and lost[1] > 3 * lost[2:].max()
    assert "shot 1" in agreement(table) and seen.sum() == pytest.approx(1, abs=0.002)


def test_what_was_retrieved_shows_the_shot_that_it_claims(session):
    best = list(chunk_shares(session))[:4]
    assert {session.nodes[chunk].shot for chunk in best} == {0}, "the red cat's first shot"
    rows = np.asarray(retrieved(session)).shape[0]
    assert rows == 5 * (48 * 3 + 6), "the shot itself and four chunks"


def test_other_memories_really_differ_on_the_sample(session):
    _, table = compare_memories(
        session,
        {"budget 3": Change(budget=3), "random": Change("random"), "window": Change("window")},
    )
    far = dict(zip(table["memory"], table[inspector.DIFFERENCE], strict=True))
    assert far.pop("as it is") == 0 and min(far.values()) > 2, far


def test_agreement_says_plainly_where_the_two_disagree():
    table = pd.DataFrame(
        {
            "memory": ["as it is", "without shot 1", "without shot 2"],
            inspector.DIFFERENCE: [0, 9, 1],
            inspector.SHARE: [None, 0.4, 0.6],
        }
    )
    assert (
        agreement(table)
        == "Here the two disagree: the loss of shot 1 shows most, and shot 2 was attended to most."
    )


def test_layers_and_heads_are_in_order_and_count_from_one(session, monkeypatch):
    heat = heads_of(session).data[0]
    assert list(heat.y) == ["1", "2", "3", "4", "5", "6"] and list(heat.x) == ["1", "2", "3", "4"]
    assert heat.z.sum(axis=1).tolist() == [6] * 6, "each layer retrieved the budget"
    assert (
        heads_of(session).layout.title.text.startswith("Chunk 28:")
        and "chunk 28" in session.place()
    )
    monkeypatch.setattr(inspector, "routing_of", lambda _: per_head())
    fig = heads_of(session)
    assert [note.text for note in fig.layout.annotations] == ["from shot 1", "from shot 2"]
    assert [list(trace.x) for trace in fig.data] == [["1", "2"]] * 2
    assert [trace.z.tolist() for trace in fig.data] == [[[1, 1], [1, 0]], [[0, 0], [0, 1]]]


def per_head() -> pd.DataFrame:
    """Chunk 3 of shot 3: in layer 2 head 2 alone retrieves chunk 2, of shot 2; the rows come in no
    order."""
    rows = [(3, 2, 1, 1, 1, 1), (3, 2, 1, 0, 0, 0), (3, 2, 0, 1, 0, 0), (3, 2, 0, 0, 0, 0)]
    table = pd.DataFrame(
        rows, columns=["chunk", "shot", "layer", "head", "kept_chunk", "kept_shot"]
    )
    return table.assign(score=[0.3, 0.5, 0.5, 0.2], kind="routed")


def test_attention_gives_every_head_the_same_say():
    found = attention_shares(per_head())
    assert dict(zip(found["kept_chunk"], found["share"], strict=True)) == {0: 0.75, 1: 0.25}
    assert dict(zip(found["kept_chunk"], found["heads"], strict=True)) == {0: 0.75, 1: 0.25}
    table = pd.DataFrame(
        [
            (5, 1, 0, -1, kept, 0, score, "routed")
            for kept, score in ((0, 0.1), (1, 0.3), (2, float("nan")))
        ],
        columns=per_head().columns,
    )
    assert attention_shares(table[:2])["share"].tolist() == pytest.approx([0.25, 0.75])
    assert attention_shares(table[:2], scored=False)["share"].tolist() == [0.5, 0.5]
    assert attention_shares(table)["share"].tolist() == pytest.approx([1 / 3] * 3), (
        "not all were scored, so all count alike"
    )
    assert attention_shares(table.iloc[:0]).empty


def test_only_shares_of_attention_are_taken_for_them():
    from dataclasses import dataclass

    from cinelab.memory.policy import CAMR, Full, RandomTopK

    @dataclass(frozen=True)
    class Own(CAMR):
        def relevance(self, q, k):
            return q.new_zeros(1)

    assert scores_attention(CAMR()) and not scores_attention(CAMR(score="mean"))
    assert not any(scores_attention(policy) for policy in (RandomTopK(), Full(), Own()))


def test_shares_add_up(session):
    assert sum(shares(session).values()) == pytest.approx(1) == sum(chunk_shares(session).values())
