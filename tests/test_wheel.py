"""The wheel: everything is in it, shipped configs too, and it works outside the checkout."""

import pathlib
import shutil
import subprocess
import sys

import metapers

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import metapers
from metapers import command, spec
assert metapers.__file__.startswith(sys.argv[1]), metapers.__file__
print(metapers.__version__, spec.config_for("sinusoid", "mlp").model.name)
sys.stdout.flush()
command.main(["metapers", "inspect-config", "--config=synthetic", "--config.inner.steps=3"])
"""


def texts(folder: pathlib.Path, prefix: str = "") -> dict[str, str]:
    """The Python files below a folder by path."""
    return {f"{prefix}{path.relative_to(folder)}": path.read_text() for path in folder.rglob("*.py")}


def test_the_wheel_installs_and_works_outside_the_checkout(tmp_path):
    def run(*arguments, **options):
        return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True, **options)

    copy = tmp_path / "copy"  # in the checkout a folder build/ would stay, and its files would be in every later wheel
    for folder in ("metapers", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip = ("-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", str(copy), "--no-deps", "--no-build-isolation", "--quiet", "-w", str(tmp_path / "wheels"))
    (wheel,) = (tmp_path / "wheels").glob("metapers-*.whl")
    run(*pip, "install", "--no-deps", "--quiet", "--target", str(tmp_path / "site"), str(wheel))
    first, *lines = run("-c", PROGRAM, str(tmp_path / "site"), cwd=tmp_path).stdout.splitlines()
    assert first.split() == [metapers.__version__, "mlp"]
    assert "name = 'synthetic users under drift'" in lines and "inner.steps = 3" in lines
    installed = tmp_path / "site" / "metapers"
    assert texts(installed) == texts(ROOT / "metapers") | texts(ROOT / "configs", "configs/")
    assert not (installed / "configs").is_symlink() and (tmp_path / "site" / "bin" / "metapers").exists()
