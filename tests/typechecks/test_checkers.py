"""What users see of the types, with a checker's own configuration instead of ours.

kazoo has no types: a checker knows nothing of it, or reads its sources. Both go.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kazoo_seqthreading

HERE = Path(__file__).parent
PACKAGE = Path(kazoo_seqthreading.__file__).parent
CHECKER_TIMEOUT = 110.0  # mypy without a cache

#: Has a file checked in a folder, and returns the lines with an error, and the output.
Check = Callable[[Path, Path], "tuple[set[int], str]"]


def run(*command: str, cwd: Path) -> str:
    """Run a checker, with the package that this test has imported."""
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    if PACKAGE.parent.name != "site-packages":  # mypy finds it there, and insists
        env["MYPYPATH"] = str(PACKAGE.parent)
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=CHECKER_TIMEOUT,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(setting: str) -> Check:
    def check(file: Path, folder: Path) -> tuple[set[int], str]:
        pytest.importorskip("mypy", reason="for tox -e types")
        config = folder / "mypy.ini"
        config.write_text(
            "[mypy]\nstrict = true\nuntyped_calls_exclude = kazoo\n"
            f"[mypy-kazoo.*]\n{setting} = true\n"
        )
        command = ("mypy", "--config-file", str(config), file.name)
        output = run(*command, cwd=folder)
        lines = re.findall(rf"^{file.name}:(\d+): error:", output, re.MULTILINE)
        return {int(line) for line in lines}, output

    return check


def pyright(reads_sources: bool) -> Check:
    def check(file: Path, folder: Path) -> tuple[set[int], str]:
        pytest.importorskip("pyright", reason="for tox -e types")
        config = {
            "useLibraryCodeForTypes": reads_sources,
            "reportMissingImports": False,
            "reportAttributeAccessIssue": "error",
        }
        (folder / "pyrightconfig.json").write_text(json.dumps(config))
        command = ("pyright", "--pythonpath", sys.executable, "--outputjson", file.name)
        found = json.loads(run(*command, cwd=folder))["generalDiagnostics"]
        errors = {
            diagnostic["range"]["start"]["line"] + 1: diagnostic["message"]
            for diagnostic in found
            if diagnostic["severity"] == "error"
        }
        return set(errors), "\n".join(f"{line}: {errors[line]}" for line in errors)

    return check


@pytest.fixture(
    params=[
        mypy("ignore_missing_imports"),
        mypy("follow_untyped_imports"),
        pyright(False),
        pyright(True),
    ],
    ids=["mypy", "mypy-reads-kazoo", "pyright", "pyright-reads-kazoo"],
)
def check(request: pytest.FixtureRequest) -> Check:
    """A checker, and what it knows of kazoo."""
    made: Check = request.param
    return made


def test_typical_uses_are_accepted(check: Check, tmp_path: Path) -> None:
    user = Path(shutil.copy(HERE / "api.py", tmp_path))

    errors, output = check(user, tmp_path)

    assert errors == set(), output


def test_mistakes_are_rejected(check: Check, tmp_path: Path) -> None:
    user = Path(shutil.copy(HERE / "rejected.py", tmp_path))
    lines = user.read_text(encoding="utf-8").splitlines()
    expected = {
        number for number, line in enumerate(lines, 1) if line.endswith("# error")
    }

    errors, output = check(user, tmp_path)

    assert expected
    assert errors == expected, output
