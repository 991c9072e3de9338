"""What a run tells while it runs: JSON lines, TensorBoard scalars, a progress bar or plain lines with an ETA."""

import contextlib
import io
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from tensorboardX import SummaryWriter
from tqdm import tqdm

from metapers.manifest import plain


class Journal:
    """Writes ``folder/journal.jsonl`` and ``folder/tensorboard/<name>/`` and speaks on ``stream``.

    Each line is flushed at once, and one that a killed run left unfinished is cut off, so the journal of a resumed
    run is readable to the last line. Use as a context manager.
    """

    def __init__(self, folder: pathlib.Path, *, tensorboard: bool = True, stream: TextIO | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lines = _opened(folder / "journal.jsonl")
        self._tensorboard = tensorboard
        self._writers: dict[str, SummaryWriter] = {}
        self._stream = stream or sys.stdout

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        self._lines.close()
        for writer in self._writers.values():
            writer.close()

    def event(self, kind: str, **fields: Any) -> None:
        """One JSON line: what happened and when; NaN and infinity are written as null."""
        line = {"time": round(time.time(), 3), "kind": kind} | plain(fields)
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()

    def scalars(self, name: str, step: int, values: Mapping[str, float], **fields: Any) -> None:
        """Scalars of the curve ``name`` (an arm) at an outer step counted over all periods."""
        self.event("scalars", name=name, step=step, **fields, **values)
        if self._tensorboard:
            if name not in self._writers:
                self._writers[name] = SummaryWriter(str(self._folder / "tensorboard" / name), write_to_disk=True)
            for tag, value in values.items():
                self._writers[name].add_scalar(tag, value, step)
            self._writers[name].flush()

    def say(self, text: str, **fields: Any) -> None:
        """A sentence for people, on the terminal above the progress bar and in the journal."""
        tqdm.write(text, file=self._stream)
        self._stream.flush()
        self.event("note", text=text, **fields)


class Meter:
    """Progress over a known amount of work: a bar on a terminal, a plain line every ``every`` seconds elsewhere."""

    def __init__(self, total: int, *, title: str, every: float = 10.0, stream: TextIO | None = None):
        self._stream = stream or sys.stdout
        self._total, self._title, self._every = total, title, every
        self._done, self._begun, self._said = 0, time.monotonic(), time.monotonic()
        terminal = self._stream.isatty()
        self._bar = tqdm(total=total, desc=title, file=self._stream, smoothing=0.1, leave=False) if terminal else None

    def waiting(self, note: str) -> None:
        """What is waited for before the first piece of work is done: said at once, on a terminal and elsewhere."""
        if self._bar is not None:
            self._bar.set_postfix_str(note)
        else:
            self._stream.write(f"{self._title} {self.line()} {note}\n")
            self._stream.flush()

    def advance(self, amount: int, note: str = "", *, worked: bool = True) -> None:
        """``amount`` more is done; ``worked`` False for what an earlier run had done, which tells nothing of speed."""
        if not worked:
            self._total -= amount
            if self._bar is not None:
                self._bar.total = self._total
                self._bar.refresh()
            return
        self._done += amount
        if self._bar is not None:
            self._bar.set_postfix_str(note)
            self._bar.update(amount)
        elif time.monotonic() - self._said >= self._every or self._done >= self._total:
            self._said = time.monotonic()
            self._stream.write(f"{self._title} {self.line()} {note}".rstrip() + "\n")
            self._stream.flush()

    def line(self) -> str:
        """Done, total, percent, rate and time left, as one line."""
        spent = time.monotonic() - self._begun
        left = spent / self._done * (self._total - self._done) if self._done else math.nan
        share = self._done / max(self._total, 1)
        eta = "?" if math.isnan(left) else f"{left:.0f} s"
        return f"{self._done}/{self._total} ({share:.0%}), {spent:.0f} s, ETA {eta}"

    def close(self) -> None:
        """Takes the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def meter(total: int, *, title: str, every: float = 10.0, shown: bool = True) -> Iterator[Meter]:
    """A ``Meter`` that is closed at the end; silent where ``shown`` is False."""
    one = Meter(total, title=title, every=every, stream=None if shown else io.StringIO())
    try:
        yield one
    finally:
        one.close()


def _opened(path: pathlib.Path) -> TextIO:
    if path.exists():
        whole = path.read_bytes()
        if not whole.endswith(b"\n"):
            os.truncate(path, whole.rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8")


def counted(count: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "inner step"), counted(5, "shot"), counted(0, "step")
    ('1 inner step', '5 shots', '0 steps')
    """
    return f"{count} {what}{'' if count == 1 else 's'}"
