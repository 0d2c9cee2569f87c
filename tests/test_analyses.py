"""The questions: each has a row, a script that says what it does, and what it writes."""

import re
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "analyses"
SCRIPTS = sorted(path.name for path in FOLDER.glob("q*.py"))


def rows() -> list[list[str]]:
    """Question, command, files and finding of each row of the table."""
    lines = (FOLDER / "README.md").read_text("utf-8").splitlines()
    table = [line.strip("| ") for line in lines if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in table]
    return [row for row in cells if row[0] != "question"]


def test_every_script_has_its_question_and_every_question_a_script() -> None:
    commands = [row[1] for row in rows()]
    named = [re.fullmatch(r"`python analyses/(q\d\d_\w+\.py)[^`]*`", command) for command in commands]
    assert all(named), commands
    assert sorted(one[1] for one in named if one) == SCRIPTS
    assert all(question.endswith("?") and finding for question, _, _, finding in rows())


def test_every_file_that_is_kept_belongs_to_a_question_and_every_figure_is_kept() -> None:
    named = {file for row in rows() for file in re.findall(r"`([^`]+)`", row[2])}
    kept = {f"{folder}/{path.name}" for folder in ("data", "figures") for path in (FOLDER / folder).iterdir()}
    captions = {str(Path(file).with_suffix(".txt")) for file in named if file.startswith("figures/")}
    assert kept <= named | captions
    assert {file for file in named if file.startswith("figures/")} <= kept


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_what_it_does(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / script), run_name="__main__")
    assert ended.value.code == 0
    question = (FOLDER / script).read_text("utf-8").removeprefix('"""').splitlines()[0]
    assert question.split("?")[0] in " ".join(capsys.readouterr().out.split())
