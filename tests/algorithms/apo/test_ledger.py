"""The ledger: on disk before anything goes on, whole after a kill, refused when it is another search's."""

import json

import pytest

from agl.errors import ConfigError, DataError
from agl_apo.ledger import Event, Ledger, answer_of, answers
from agl_apo.moves import Draw, Proposal

ABOUT = {"seed": 1, "texts": {"p": "x"}}


def draw(task, reward=1.0):
    return Draw(task_id=task, reward=reward, rollout_id=f"ro-{task}")


def test_what_was_appended_is_there_after_opening_it_again(tmp_path):
    ledger = Ledger(tmp_path)
    assert ledger.open(ABOUT) is False
    ledger.append(Event(event="draw", at=1.0, move=0, place=1, draw=draw("b", None)))
    ledger.append(Event(event="draw", at=1.5, move=0, place=0, draw=draw("a")))
    ledger.append(Event(event="answered", at=2.0, move=0))
    ledger.append(Event(event="answered", at=3.0, move=1, proposal=Proposal(text="y", hypothesis="h", cost=0.5)))
    ledger.close()
    again = Ledger(tmp_path)
    assert again.begun() == {"format": 1, **ABOUT}
    assert again.open(ABOUT) is True
    assert again.seconds == 3.0
    told = [answer_of(event, answers(again.events)) for event in again.events if event.event == "answered"]
    assert told == [[draw("a"), draw("b", None)], Proposal(text="y", hypothesis="h", cost=0.5)]
    again.close()


def test_every_event_is_synced_before_append_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("agl_apo.ledger.os.fsync", lambda file: synced.append(len((tmp_path / "ledger.jsonl").read_bytes().splitlines())))
    ledger = Ledger(tmp_path)
    ledger.open(ABOUT)
    synced.clear()
    ledger.append(Event(event="answered", move=0))
    ledger.close()
    assert synced == [2]


@pytest.mark.parametrize("torn", ['{"event": "dr', '{"event": "answered", "move": 1}', "\x00\x00"])
def test_a_last_line_that_was_not_finished_is_cut_off(tmp_path, torn):
    ledger = Ledger(tmp_path)
    ledger.open(ABOUT)
    ledger.append(Event(event="answered", move=0))
    ledger.close()
    with ledger.path.open("a") as file:
        file.write(torn)
    again = Ledger(tmp_path)
    again.open(ABOUT)
    again.append(Event(event="answered", move=1))
    again.close()
    assert [json.loads(line)["event"] for line in again.path.read_text().splitlines()] == ["begin", "answered", "answered"]


def test_another_searchs_ledger_is_refused_with_what_differs(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.open(ABOUT)
    ledger.close()
    with pytest.raises(ConfigError, match=r"can only go on as it was begun: `texts` was \{'p': 'x'\} and is \{'p': 'z'\}"):
        Ledger(tmp_path).open({**ABOUT, "texts": {"p": "z"}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"event": "begin", "about": {"format": 1}}\nnonsense\n{"event": "answered"}\n', "line 2 of .* cannot be read"),
        ('{"event": "begin", "about": {"format": 9}}\n', "is no ledger of format 1; another version of agl-apo wrote it"),
        ('{"event": "answered", "move": 1}\n', "is no ledger of format 1"),
    ],
)
def test_a_ledger_that_cannot_be_read_is_an_error_and_not_an_empty_one(tmp_path, content, said):
    (tmp_path / "ledger.jsonl").write_text(content)
    with pytest.raises(DataError, match=said):
        Ledger(tmp_path).open(ABOUT)
