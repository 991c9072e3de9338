"""The wheel: everything is in it, and it works outside the checkout."""

import pathlib
import subprocess
import sys

import metapers

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_the_wheel_installs_and_imports_outside_the_checkout(tmp_path):
    def run(*arguments, **options):
        return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True, **options)

    pip = ("-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--quiet", "-w", str(tmp_path / "wheels"))
    (wheel,) = (tmp_path / "wheels").glob("metapers-*.whl")
    run(*pip, "install", "--no-deps", "--quiet", "--target", str(tmp_path / "site"), str(wheel))
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import metapers\nfrom metapers import experiment, command\n"
        "assert metapers.__file__.startswith(sys.argv[1]), metapers.__file__\n"
        "print(metapers.__version__, experiment.config_for('sinusoid', 'mlp').model.name)\n"
    )
    told = run("-c", program, str(tmp_path / "site"), cwd=tmp_path).stdout.split()
    assert told == [metapers.__version__, "mlp"]
    found = {path.parent.name for path in (tmp_path / "site" / "metapers").rglob("*.py")}
    assert found >= {path.parent.name for path in (ROOT / "metapers").rglob("*.py")}
