"""The journal of a run and its progress on a screen."""

import io
import re

from metapers.journal import Journal, meter
from tests import runs


def test_a_torn_journal_line_is_cut_off(tmp_path):
    with Journal(tmp_path, tensorboard=False) as one:
        one.event("start", loss=float("nan"))
    path = tmp_path / "journal.jsonl"
    path.write_text(path.read_text() + '{"kind": "torn')
    with Journal(tmp_path, tensorboard=False) as one:
        one.event("end")
    lines = runs.journal(tmp_path)
    assert [line["kind"] for line in lines] == ["start", "end"] and lines[0]["loss"] is None


def test_progress_is_plain_lines_with_an_eta_where_there_is_no_terminal(monkeypatch):
    out = io.StringIO()
    now = [0.0]
    monkeypatch.setattr("metapers.journal.time.monotonic", lambda: now[0])
    with meter(10, title="train", every=5.0) as told:
        told._stream = out
        told.waiting("compiling")
        told.advance(4, worked=False)  # what an earlier run had done
        now[0] = 6.0
        told.advance(3, "fine_tune")
        told.advance(1)
        now[0] = 12.0
        told.advance(2)
    first, *lines = out.getvalue().splitlines()
    assert first == "train 0/10 (0%), 0 s, ETA ? compiling"
    assert lines == ["train 3/6 (50%), 6 s, ETA 6 s fine_tune", "train 6/6 (100%), 12 s, ETA 0 s"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal_and_nothing_where_it_is_switched_off(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    with meter(4, title="train") as told:
        told.waiting("compiling")
        told.advance(1, worked=False)
        told.advance(3, "fine_tune")
    assert "compiling" in screen.getvalue()
    assert re.search(r"train: .*0/3.*fine_tune", screen.getvalue())
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    with meter(4, title="train", shown=False) as told:
        told.advance(4)
    assert screen.getvalue() == ""
