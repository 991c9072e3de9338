"""The run's folder: made or refused by name, held once, its small files whole."""

import json
import math
import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

from metapers import workdir
from tests.damage import finish, start

HOLD = """
import os, sys, time; from metapers import workdir
with workdir.lock(sys.argv[1]):
    print(os.getpid(), flush=True); time.sleep(600)
"""

NOBODY = """
import os, sys; from metapers import workdir
if os.geteuid() == 0: os.setgroups([]), os.setgid(65534), os.setuid(65534)
for path in sys.argv[1:]:
    try: workdir.open_workdir(path); print("made")
    except PermissionError as error: print(error.filename, "|", error)
"""

STARVED = """
import resource, signal, sys; from metapers import workdir
signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try: workdir.write_json(sys.argv[1], list(range(1000)))
except OSError as error: print(error.errno, error.filename, error)
try: workdir.append_line(sys.argv[2], "x" * 1000)
except OSError as error: print(error.errno, error.filename)
"""


def test_open_makes_the_folder_and_opens_it_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = workdir.open_workdir("a/b")
    assert made == tmp_path / "a" / "b" and sorted(os.listdir(made)) == ["arms", "records"]
    (made / "records" / "x").write_text("kept")
    assert workdir.open_workdir(made) == made and (made / "records" / "x").read_text() == "kept"


def test_a_file_in_the_way_is_named(tmp_path):
    blocking = tmp_path / "file"
    blocking.write_text("")
    for path in (blocking, blocking / "run", blocking / "deep" / "run"):
        with pytest.raises(NotADirectoryError, match="this is a file") as refusal:
            workdir.open_workdir(path)
        assert refusal.value.filename == str(blocking) and str(path) in str(refusal.value)


def test_a_folder_that_may_not_be_written_is_named():
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users altogether
    try:
        (folder / "open").mkdir()
        (folder / "full" / "records").mkdir(parents=True)
        (folder / "full" / "arms").mkdir()
        (folder / "hidden").mkdir(mode=0o700)
        for path in (folder, folder / "full"):
            path.chmod(0o555)
        (folder / "open").chmod(0o777)
        paths = [folder / "new", folder / "full", folder / "hidden" / "run", folder / "open" / "run"]
        if os.geteuid() != 0:
            (folder / "hidden").chmod(0o500)
        said = finish(NOBODY, *paths).splitlines()
        for path, line in zip(paths[:3], said, strict=False):
            assert line.startswith(f"{path} | ") and "cannot write in the workdir" in line
        assert said[3] == "made"
    finally:
        for path in (folder, folder / "full", folder / "hidden"):
            path.chmod(0o700)
        shutil.rmtree(folder)


def test_a_second_holder_is_refused_with_the_first_ones_number(tmp_path):
    with start(HOLD, tmp_path) as child:
        try:
            assert child.stdout is not None
            holder = child.stdout.readline().strip()
            with pytest.raises(BlockingIOError, match=f"in use by process {holder}: '{tmp_path}'") as refusal:
                with workdir.lock(tmp_path):
                    raise AssertionError("two holders")
            assert isinstance(refusal.value, workdir.WorkdirInUse)
        finally:
            child.send_signal(signal.SIGKILL)
    assert (tmp_path / ".lock").read_text().strip() == holder  # stale, and blocks nobody
    with workdir.lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_is_let_go_and_held_against_oneself(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError, match="mine"), workdir.lock(tmp_path):
            with pytest.raises(workdir.WorkdirInUse, match=str(os.getpid())), workdir.lock(str(tmp_path)):
                raise AssertionError("two holders")
            raise RuntimeError("mine")
    assert (tmp_path / ".lock").read_text() == ""


def test_json_is_whole_ordered_and_without_nan(tmp_path):
    path = tmp_path / "summary.json"
    workdir.write_json(path, {"z": np.float32(0.5), "a": [math.nan, math.inf, 1], "n": {1: None, "s": "é"}})
    text = path.read_text()
    assert json.loads(text) == {"z": 0.5, "a": [None, None, 1], "n": {"1": None, "s": "é"}}
    assert text.index('"z"') < text.index('"a"') and text.endswith("}\n")
    with pytest.raises(TypeError, match="as JSON"):
        workdir.write_json(path, {"bad": {1, 2}})
    assert path.read_text() == text and os.listdir(tmp_path) == ["summary.json"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        workdir.write_json(tmp_path / "nowhere" / "x.json", {})


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path, lines = tmp_path / "summary.json", tmp_path / "log"
    workdir.write_json(path, {"old": 1})
    said = finish(STARVED, path, lines).splitlines()
    assert said[0].startswith(f"27 {path} ") and "could not write" in said[0]
    assert said[1] == f"28 {lines}"
    assert json.loads(path.read_text()) == {"old": 1} and sorted(os.listdir(tmp_path)) == ["log", "summary.json"]


def test_lines_are_appended_and_a_torn_one_is_ended(tmp_path):
    path = tmp_path / "log"
    workdir.append_line(path, "a")
    workdir.append_line(path, "b")
    assert path.read_text() == "a\nb\n"
    path.write_text("a\ntor")
    workdir.append_line(path, "c")
    assert path.read_text() == "a\ntor\nc\n"
    with pytest.raises(ValueError, match="line must hold no line break"):
        workdir.append_line(path, "x\ny")


@pytest.mark.parametrize("text", ["", '{"steps": 4', "[1, 2]", "\x00\x01", b"\xff\xfe"])
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "config.json"
    workdir.write_json(path, {"steps": 4})
    assert workdir.read_json(path) == {"steps": 4}
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"^{path} is damaged: "):
        workdir.read_json(path)
