"""docs/picture.png: the top of the pooled report of `make results`, as a browser shows it.

    python benchmarks/picture.py --workdir=runs/results --browser=chromium

The picture carries its own figures as text, and a test holds them against the README's.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

from PIL import Image
from PIL.PngImagePlugin import PngInfo

ROOT = pathlib.Path(__file__).resolve().parents[1]
WINDOW, SIZE = (1180, 1460), (944, 1168)  # of the browser and of the picture, pixels


def told(summary: dict) -> str:
    """The figures that are read in the picture: adapted, and each comparison's mean and difference."""
    head = summary["headline"]
    rows = {name: f"{row['mean']:.4f} {row['difference']:+.4f}" for name, row in head["baselines"].items()}
    return json.dumps({"adapted": f"{head['adapted']['mean']:.4f}"} | rows, sort_keys=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs" / "results", help="of make results")
    parser.add_argument("--browser", default="chromium", help="one of Chromium's family")
    parser.add_argument("--save", type=pathlib.Path, default=ROOT / "docs" / "picture.png")
    given = parser.parse_args()
    summary = json.loads((given.workdir / "summary.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        shot = pathlib.Path(folder) / "shot.png"
        page = (given.workdir / "report.html").resolve().as_uri()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        size = f"--window-size={','.join(map(str, WINDOW))}"
        subprocess.run([given.browser, *options, size, f"--screenshot={shot}", page], check=True, capture_output=True)
        picture = Image.open(shot).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    held = PngInfo()
    held.add_text("figures", told(summary))
    picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        given.save, optimize=True, pnginfo=held
    )
    print(f"{given.save}: {told(summary)}")


if __name__ == "__main__":
    main()
