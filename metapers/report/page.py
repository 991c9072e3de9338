"""The report: one self-contained page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa


def write_report(folder: Path, summary: Mapping[str, Any], table: pa.Table, config: Mapping[str, Any]) -> Path:
    """Writes the page and its pictures; returns the page's path."""
    path = Path(folder) / "report.html"
    path.write_text("<html></html>")
    return path
