"""What waits for a browser of the demo: bounded, newest first where only the newest matters, and no
more than has changed."""

import json

import numpy as np
import pytest

from cinelab.lab.desk.frame_channel import UNDER_WAY
from cinelab.lab.desk.viewers import MOST, STILLS, Viewer, Viewers, view_changes

FRAMES = np.zeros((2, 8, 8, 3), np.uint8)


def taken(viewer):
    found = []
    while (sent := viewer.take()) is not None:
        found.append((json.loads(sent[0]), sent[1]))
    return found


def group(count=1):
    all_of_them = Viewers()
    each = [Viewer() for _ in range(count)]
    for viewer in each:
        all_of_them.add(viewer)
    return all_of_them, each


def test_everybody_gets_the_pictures_and_only_who_draws_them_gets_more():
    viewers, (quick, slow) = group(2)
    for _ in range(5):
        viewers.send_frames({"node": 1}, FRAMES)
        for text, _ in taken(quick):
            quick.acknowledge(text["custom"]["number"])
        taken_slow = taken(slow)
    assert taken_slow == [] and viewers.wait_for_room(0), (
        "the slow one has two under way, and the quick one is not held up"
    )
    slow.acknowledge(1)
    ((text, frames),) = taken(slow)
    assert text["custom"]["number"] == 5 and len(frames) == 2, (
        "what was made meanwhile is passed over"
    )


def test_no_more_than_two_pictures_are_under_way_and_nobody_with_room_means_no_work():
    viewers, (one,) = group()
    for _ in range(4):
        viewers.send_frames({}, FRAMES)
        taken(one)
    assert not viewers.wait_for_room(0) and not Viewers().wait_for_room(0)
    one.reset()
    assert len(taken(one)) == 1 and UNDER_WAY == 2


def test_answers_keep_their_order_and_too_many_lose_the_browser():
    viewer = Viewer()
    for number in range(3):
        viewer.send({"kind": "answer", "id": number})
    assert [text["custom"]["id"] for text, _ in taken(viewer)] == [0, 1, 2]
    for _ in range(9):
        viewer.send({"kind": "film"}, [bytes(MOST // 8)])
    assert viewer.lost and viewer.take() is None


def test_a_take_may_be_large_and_only_the_last_one_waits():
    viewer = Viewer()
    for number in range(3):
        viewer.send({"kind": "take", "of": number}, [bytes(2 * MOST)])
    ((text, _),) = taken(viewer)
    assert text["custom"]["of"] == 2 and not viewer.lost


def test_stills_wait_once_a_line_and_go_in_parts():
    viewer = Viewer()
    for _ in range(3):
        viewer.send({"kind": "stills", "lines": [1, 2, 3]}, [bytes(STILLS)] * 3)
    found = taken(viewer)
    assert [text["custom"]["lines"] for text, _ in found] == [[1], [2], [3]] and not viewer.lost


@pytest.mark.parametrize(
    "old, new",
    [
        ({}, {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ({"a": 1, "b": [1] * 9}, {"a": 2, "b": [1] * 8 + [2]}),
        ({"b": list(range(9))}, {"b": list(range(3, 5))}),
        ({"b": []}, {"b": list(range(9))}),
        ({"b": list(range(6))}, {"b": list(range(9))}),
        ({"b": list(range(9))}, {"b": None}),
    ],
)
def test_news_turn_one_view_into_the_next(old, new):
    changes = json.loads(json.dumps(view_changes(old, new)))
    assert (changes == {}) == (old == new)
    view = old | changes.get("set", {})
    for name, (length, *rows) in changes.get("rows", {}).items():
        rebuilt = list(old[name])[:length] + [None] * (length - len(old[name]))
        for place, row in rows:
            rebuilt[place] = row
        view[name] = rebuilt
    assert view == new


def test_a_view_of_many_shots_is_told_by_what_has_changed():
    shots = [
        {"shot": n, "prompt": "x" * 2000, "chunks": 40, "takes": [{"prompt": "x" * 2000}]}
        for n in range(80)
    ]
    viewer = Viewer()
    viewer.welcome({"about": {}}, {"chunks": 3200, "shots": shots})
    whole = len(viewer.take()[0])
    viewer.show({"chunks": 3201, "shots": [*shots[:-1], shots[-1] | {"chunks": 41}]})
    viewer.show({"chunks": 3202, "shots": [*shots[:-1], shots[-1] | {"chunks": 42}]})
    ((text, _),) = taken(viewer)
    assert text["changes"]["set"] == {"chunks": 3202} and len(json.dumps(text)) < whole / 50
