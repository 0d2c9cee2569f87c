"""What README and docs say can be done: Python and notebooks run, command lines are ones, links lead somewhere."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics

import matplotlib
import pytest
import torch
import typer

import infodyn_interp as idi
from infodyn_interp import energy
from infodyn_interp.cli.commands import app
from infodyn_interp.sweeping import sweep
from infodyn_interp.texts import read_texts

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "analyses").glob("*.md")])
PAGES = [page for page in PAGES if "_build" not in page.parts]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
CELL_SECONDS = 180


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)
    return [text for name, text in found if name == language]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def place(demo_model, tmp_path_factory):
    """A folder with the corpus and the study that the pages speak of."""
    folder = tmp_path_factory.mktemp("place")
    long = [text[:1500] for text in sorted(topics.values(), key=len)[-10:]]  # a window each
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"text": text}) + "\n" for text in long)
    texts = read_texts(folder / "corpus.jsonl", demo_model.tokenizer, window=256)
    sweep(demo_model, texts, layers=[0, 10, 20], nulls=("permuted_queries",), out=folder / "out" / "study")
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_the_python_of_a_page_runs(page, place, demo_model, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(idi, "open_model", lambda name: demo_model)  # opened once for all tests
    # the study of the place is not computed again, and any other would be refused there
    monkeypatch.setattr(idi, "sweep", partial(sweep, out=place / "out" / "study"))
    monkeypatch.setattr(energy, "REFERENCES", dict(energy.REFERENCES))
    names: dict = {}
    with matplotlib.rc_context({"backend": "agg"}):
        for text in blocks(page, "python"):
            exec(compile(text, name_of(page), "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if "infodyn " in page.read_text()], ids=name_of)
def test_the_command_lines_of_a_page_are_ones(page):
    lines = [line for text in blocks(page, "") for line in text.splitlines() if line.startswith("infodyn ")]
    command = typer.main.get_command(app)
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        if not any(word.isupper() and len(word) > 1 for word in words):
            name, chosen, rest = command.resolve_command(command.make_context("infodyn", words), words)
            chosen.make_context(name, rest)


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name_of)
def test_the_links_of_a_page_lead_somewhere(page):
    made = {"options.md", "python.md"}  # when the site is built
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", text) + re.findall(r'src="([^"]+)"', text):
        assert (page.parent / target).exists() or target in made, target


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A copy of the docs whose notebooks were run where they lie, and what the run said."""
    docs = tmp_path_factory.mktemp("site") / "docs"
    shutil.copytree(ROOT / "docs", docs, ignore=shutil.ignore_patterns("_build", ".ipynb_checkpoints"))
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbmake", "--overwrite"]
    line += [f"--nbmake-timeout={CELL_SECONDS}", str(docs / "notebooks")]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(line, cwd=docs, env=alone | threads, capture_output=True, text=True, check=False)
    return docs, done


def test_the_notebooks_run(executed):
    _, done = executed
    assert done.returncode == 0, done.stdout
    assert f"{len(NOTEBOOKS)} passed" in done.stdout


@pytest.mark.parametrize("page", NOTEBOOKS, ids=name_of)
def test_a_notebook_is_kept_without_what_running_it_leaves(page):
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    left = [
        cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count") or cell["metadata"]
    ]
    assert not left


def test_the_site_is_built_without_a_warning(executed, tmp_path):
    docs, _ = executed  # each notebook is run once: here the site shows what that gave
    line = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    line += ["-D", "nb_execution_mode=off", str(docs), str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "state_rank" in (tmp_path / "options.html").read_text(encoding="utf-8")
    assert "infodyn_interp.sweep" in (tmp_path / "python.html").read_text(encoding="utf-8")
    for page in NOTEBOOKS:
        shown = (tmp_path / "notebooks" / page.name).with_suffix(".html").read_text(encoding="utf-8")
        assert "<figcaption>" in shown, page
