"""The table `[measures]` of a run file: what is measured of trajectories after the sweep and read inside by it."""

import inspect
import json
import tomllib

import families
import numpy as np
import pytest
import xarray

from infodyn_interp import results
from infodyn_interp.cli import main
from infodyn_interp.run import Measures, read, read_table
from infodyn_interp.sweeping.measuring import measure

KEYS = {
    "window": 72,
    "state_rank": 4,
    "layers": "0,2",
    "documents": 6,
    "threads": 1,
    "limits": "none",
    "seed": 3,
}
TABLE = {"measures": ["fidelity", "jumps"], "nulls": "untrained", "fit_tokens": 400, "walked": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model and texts."""
    folder = tmp_path_factory.mktemp("given")
    families.build("llama").save_pretrained(folder / "tiny")
    families.save_tokenizer(folder / "tiny")
    draw = np.random.default_rng(0)
    words = ["the", "clock", "kept", "its", "own", "time", "in", "an", "old", "house", ".", "\n"]
    lines = (json.dumps({"text": " ".join(draw.choice(words, 160))}) + "\n" for _ in range(12))
    (folder / "corpus.jsonl").write_text("".join(lines))
    return folder


def write(folder, table=None, **more):
    keys = KEYS | {"model": "./tiny", "texts": "corpus.jsonl", "out": "out", "nulls": ["untrained"]} | more
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    table = TABLE if table is None else table
    lines += ["[measures]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    (folder / "study.toml").write_text("\n".join(lines) + "\n")
    return str(folder / "study.toml")


@pytest.fixture(scope="module")
def study(folder):
    assert main(["run", write(folder)]) == 0
    return folder / "out"


def test_a_run_with_the_table_is_a_sweep_and_what_measures_makes_inside_it(folder, study, capsys):
    made = results.open_result(study / "path")
    asked = ["measures", "--model", str(folder / "tiny"), "--texts", str(folder / "corpus.jsonl")]
    asked += ["--inside", str(study), "--threads", "1", "--out", str(folder / "own")]
    for key, value in TABLE.items():
        asked += [f"--{key.replace('_', '-')}", ",".join(value) if isinstance(value, list) else str(value)]
    assert main(asked) == 0
    own = results.open_result(folder / "own")
    assert made.attrs["run_digest"] == own.attrs["run_digest"]
    for node in own.subtree:
        if node.path not in ("/", "/cost"):
            xarray.testing.assert_identical(made[node.path].to_dataset(), node.to_dataset())
    capsys.readouterr()
    assert main(["run", str(folder / "study.toml"), "--json"]) == 0
    assert {"verdict", "gain"} <= json.loads(capsys.readouterr().out)[0].keys()


def test_what_shows_a_sweep_shows_the_measures_beside_it(study, capsys):
    assert main(["show", str(study), "jumps", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    frame = results.table(results.open_result(study / "path"), "jumps")
    assert [row["quantity"] for row in rows] == frame["quantity"].tolist()
    assert main(["show", str(study)]) == 0
    assert "law over 2 layers" in capsys.readouterr().out
    assert main(["figures", str(study), "--format", "svg"]) == 0
    assert {"fidelity", "unfinished", "verdict_map"} <= {path.stem for path in (study / "fig").glob("*.svg")}
    assert main(["report", str(study)]) == 0
    page = (study / "report.html").read_text()
    assert "Fidelity of trajectories" in page
    assert "group-jumps" in page


def test_measures_of_another_sweep_are_not_shown_with_one(study):
    sweep, measured = results.open_result(study), results.open_result(study / "path")
    assert {"jumps", "fidelity"} <= set(results.join(sweep, measured).children)
    measured.attrs["run"] = json.dumps(json.loads(measured.attrs["run"]) | {"inside": "none"})
    assert results.join(sweep, measured) is sweep


def test_the_table_is_no_part_of_the_sweep_and_keys_are_those_of_measure(folder):
    file = write(folder)
    (folder / "alone.toml").write_text((folder / "study.toml").read_text().partition("[measures]")[0])
    assert read(file).digest == read(folder / "alone.toml").digest
    assert read_table(folder / "alone.toml", Measures) is None
    asked = read_table(file, Measures)
    (folder / "again.toml").write_text(asked.as_toml())
    assert read_table(folder / "again.toml", Measures) == asked
    parameters = inspect.signature(measure).parameters
    for key, field in Measures.model_fields.items():
        assert field.default == ("all" if key == "layers" else parameters[key].default)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"walk": 4}, "measures.walk: there is no such key; the nearest is walked"),
        ({"walked": 0}, "measures.walked: 0 asked, it takes a whole number, at least 1"),
        ({"layers": "1"}, "measures.layers: 1 asked, a trajectory in depth needs at least 2"),
        ({"nulls": "permuted_queries"}, "measures.nulls: permuted_queries is of attention energies"),
        ({"measures": ["charm"]}, "measures: 'charm' is not one of fidelity"),
        ({"measures": 3}, "measures.measures: 3 asked, it takes a list of names"),
        ({"out": "never"}, "measures.out: "),
    ],
)
def test_what_is_wrong_with_it_is_said_before_the_sweep(folder, table, message, capsys):
    assert main(["run", write(folder, table, out="never", model="nowhere")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (folder / "never").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"carry": False}, "jumps are of the carry-over, and carry is false"),
        ({"window": 48}, "jumps in windows of 48 tokens; a threshold needs"),
    ],
)
def test_jumps_that_a_sweep_will_not_leave_are_refused_before_it(folder, more, message, capsys):
    assert main(["run", write(folder, {"measures": "jumps"}, out="never", model="nowhere", **more)]) == 2
    assert message in capsys.readouterr().err


def test_a_dry_run_prints_it(folder, capsys):
    assert main(["run", write(folder, out="dry"), "--dry"]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert printed["measures"]["measures"] == ["fidelity", "jumps"]
    assert printed["measures"]["layers"] == "all"
