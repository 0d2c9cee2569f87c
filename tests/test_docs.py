"""What README and docs say can be done: their Python runs, their command lines are ones, their links lead somewhere."""

import json
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics

import matplotlib
import pytest
import typer

import infodyn_interp as idi
from infodyn_interp import energy
from infodyn_interp.cli.commands import app
from infodyn_interp.sweeping import sweep
from infodyn_interp.texts import read_texts

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "analyses").glob("*.md")])
PAGES = [page for page in PAGES if "_build" not in page.parts]


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


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_lead_somewhere(page):
    made = {"options.md", "python.md"}  # when the site is built
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", text) + re.findall(r'src="([^"]+)"', text):
        assert (page.parent / target).exists() or target in made, target


def test_the_site_is_built_without_a_warning(tmp_path):
    line = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(ROOT / "docs")]
    done = subprocess.run([*line, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "state_rank" in (tmp_path / "options.html").read_text(encoding="utf-8")
    assert "infodyn_interp.sweep" in (tmp_path / "python.html").read_text(encoding="utf-8")
