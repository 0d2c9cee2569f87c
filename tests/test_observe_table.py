"""The table `[observe]` of a run file: replies that are drawn after the sweep and read by it."""

import inspect
import json
import tomllib

import families
import numpy as np
import pytest
import xarray

from infodyn_interp import RequestError, results
from infodyn_interp.cli import main
from infodyn_interp.observing import trace
from infodyn_interp.run import Observe, read, read_table

KEYS = {
    "window": 48,
    "state_rank": 4,
    "layers": "0,2",
    "documents": 6,
    "threads": 1,
    "limits": "none",
    "carry": False,
}
TABLE = {"prompts": "prompts.txt", "trials": 4, "tokens": 12, "temperature": [0.7, 1], "seed": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, texts and prompts."""
    folder = tmp_path_factory.mktemp("given")
    families.build("llama").save_pretrained(folder / "tiny")
    families.save_tokenizer(folder / "tiny")
    draw = np.random.default_rng(0)
    words = ["the", "clock", "kept", "its", "own", "time", "in", "an", "old", "house"]
    lines = (json.dumps({"text": " ".join(draw.choice(words, 60))}) + "\n" for _ in range(12))
    (folder / "corpus.jsonl").write_text("".join(lines))
    (folder / "prompts.txt").write_text("The train\nWhy is it late\n")
    return folder


def write(folder, table=None, **more):
    keys = KEYS | {"model": "./tiny", "texts": "corpus.jsonl", "out": "out", "nulls": ["untrained"]} | more
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    lines += [
        "[observe]",
        *(f"{key} = {json.dumps(value)}" for key, value in (TABLE | (table or {})).items()),
    ]
    (folder / "study.toml").write_text("\n".join(lines) + "\n")
    return str(folder / "study.toml")


def test_a_run_with_the_table_is_a_sweep_and_what_observe_makes_inside_it(folder, capsys):
    assert main(["run", write(folder)]) == 0
    said = capsys.readouterr().out
    assert "Inside: by the frozen terms of a sweep" in said
    made = results.open_result(folder / "out" / "seen")
    asked = ["observe", "--model", str(folder / "tiny"), "--inside", str(folder / "out"), "--threads", "1"]
    asked += ["--prompts", str(folder / "prompts.txt"), "--temperature", "0.7,1.0"]
    asked += ["--trials", "4", "--tokens", "12", "--seed", "3", "--out", str(folder / "own")]
    assert main(asked) == 0
    own = results.open_result(folder / "own")
    assert made.attrs["run_digest"] == own.attrs["run_digest"]
    for node in own.subtree:
        if node.path != "/":
            xarray.testing.assert_identical(made[node.path].to_dataset(), node.to_dataset())
    assert "track_untrained" in made["output"]
    capsys.readouterr()
    assert main(["run", str(folder / "study.toml"), "--json"]) == 0
    assert {"verdict", "gain"} <= json.loads(capsys.readouterr().out)[0].keys()


def test_the_table_is_no_part_of_the_sweep_and_keys_are_those_of_trace(folder):
    file = write(folder)
    (folder / "alone.toml").write_text((folder / "study.toml").read_text().partition("[observe]")[0])
    assert read(file).digest == read(folder / "alone.toml").digest
    assert read_table(folder / "alone.toml", Observe) is None
    asked = read_table(file, Observe)
    assert asked.prompts == folder / "prompts.txt"
    (folder / "again.toml").write_text(asked.as_toml())
    assert read_table(folder / "again.toml", Observe) == asked
    parameters = inspect.signature(trace).parameters
    for key, field in Observe.model_fields.items():
        default = parameters["alphas" if key == "sweep_alpha" else key].default
        assert field.is_required() or field.default in (default, (default,))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"trails": 4}, "observe.trails: there is no such key; the nearest is trials"),
        ({"trials": 1}, "observe.trials: 1 asked, it takes a whole number, at least 2"),
        ({"alpha": 0}, "observe.alpha: 0 asked, it takes a number, above 0 and at most 1"),
        ({"temperature": 0}, "at 0 all 4 trials are the same reply"),
        ({"temperature": "hot"}, 'observe.temperature: "hot" is not a number, or a list such as [0.7, 1.0]'),
        ({"step": "word"}, "step: 'word' is not one of"),
        ({"tokens": 48}, "observe.tokens: 48 of a reply, where a window of the sweep holds 48"),
        ({"prompts": "nowhere.txt"}, "nowhere.txt is not there"),
        ({"prompts": "corpus.jsonl"}, "prompt"),
    ],
)
def test_what_is_wrong_with_it_is_said_before_the_sweep(folder, table, message, capsys):
    assert main(["run", write(folder, table, out="never", model="nowhere")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (folder / "never").exists()


def test_a_table_that_is_none_or_lacks_its_prompts_is_refused(folder):
    (folder / "odd.toml").write_text("observe = 3\n")
    with pytest.raises(
        RequestError, match=r"observe: 3 is no table; write its keys below a line \[observe\]"
    ):
        read_table(folder / "odd.toml", Observe)
    (folder / "odd.toml").write_text("[observe]\ntrials = 4\n")
    with pytest.raises(RequestError, match=r"odd.toml: observe.prompts: missing; JSONL"):
        read_table(folder / "odd.toml", Observe)


def test_a_dry_run_prints_it(folder, capsys):
    assert main(["run", write(folder, out="dry"), "--dry"]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert printed["observe"]["prompts"] == str(folder / "prompts.txt")
    assert printed["observe"]["temperature"] == [0.7, 1.0]
    assert printed["observe"]["top_p"] == 1.0
