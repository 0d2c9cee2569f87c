"""`infodyn observe` as it is used: every way in gives the same numbers, and a kill loses the prompt in flight alone."""

import json
import os
import signal
import subprocess
import sys

import families
import pytest
import xarray

from infodyn_interp import results
from infodyn_interp.cli import main
from infodyn_interp.models import open_model
from infodyn_interp.observe import sampling
from infodyn_interp.observing import trace

PROMPTS = ["The train left the station at nine", "In the old house the clock kept its own time"]
ASKED = {"trials": 4, "tokens": 12, "seed": 2, "micro_batch": 2}
KILLED = """
import os, signal, sys
import {module} as room
from infodyn_interp.cli import main
before, calls = room.{name}, []
def kill_or_go_on(*given, **named):
    calls.append(1)
    if len(calls) == {count}:
        os.kill(os.getpid(), signal.SIGKILL)
    return before(*given, **named)
room.{name} = kill_or_go_on
sys.exit(main())
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with a tiny model and two prompts, as JSONL and as lines."""
    folder = tmp_path_factory.mktemp("given")
    families.build("gpt2", n_layer=2).save_pretrained(folder / "model")
    families.save_tokenizer(folder / "model")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in PROMPTS))
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n\n")
    return folder


@pytest.fixture(scope="module")
def words(given):
    """The command, all but where its result goes."""
    asked = [word for key, value in ASKED.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    return ["observe", "--model", str(given / "model"), "--prompts", str(given / "prompts.jsonl"), *asked]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """The result when nothing comes between."""
    out = tmp_path_factory.mktemp("whole")
    assert main([*words, "--out", str(out)]) == 0
    return results.open_result(out)


def assert_same(result, whole):
    assert result.attrs["run_digest"] == whole.attrs["run_digest"]
    assert {node.path for node in result.subtree} == {node.path for node in whole.subtree}
    for node in whole.subtree:
        if node.path != "/":
            xarray.testing.assert_identical(result[node.path].to_dataset(), node.to_dataset())


def test_python_the_shell_and_lines_of_plain_text_give_the_same_numbers(given, words, whole, tmp_path):
    traced = trace(open_model(str(given / "model")), PROMPTS, out=tmp_path / "python", **ASKED)
    assert_same(results.open_result(tmp_path / "python"), whole)
    for name in ("tension", "residual_energy", "residual_energy_untrained"):
        xarray.testing.assert_equal(traced["output"][name], whole["output"][name])
    plain = [word.replace(".jsonl", ".txt") for word in words]
    assert main([*plain, "--out", str(tmp_path / "lines")]) == 0
    assert_same(results.open_result(tmp_path / "lines"), whole)


def test_a_command_killed_while_it_draws_and_while_it_reads_comes_to_the_same_bits(words, whole, tmp_path):
    shards = tmp_path / "replies"
    for module, name, count, left in (
        ("infodyn_interp.observe.sampling", "choose", 17, {"study": 1, "untrained": 0}),
        ("infodyn_interp.observing.inside", "capture", 6, {"study": 2, "untrained": 1}),
    ):
        line = KILLED.format(module=module, name=name, count=count)
        ended = subprocess.run(
            [sys.executable, "-c", line, *words, "--out", str(tmp_path)], capture_output=True, text=True
        )
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert {stage: len([*(shards / stage).glob("*.npz")]) for stage in left} == left
        assert not (tmp_path / results.FILE).exists()
    first = shards / "study" / "00000.npz"
    before = first.stat().st_ino, first.stat().st_mtime_ns
    assert before[1] < (shards / "untrained" / "00000.npz").stat().st_mtime_ns
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert_same(results.open_result(tmp_path), whole)
    assert {path.name for path in tmp_path.iterdir()} == {results.FILE}


def test_an_interrupt_ends_it_with_130_and_a_line_how_to_go_on(words, whole, tmp_path, monkeypatch, capsys):
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in the background of a shell
    before, calls = sampling.choose, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 17:
            os.kill(os.getpid(), signal.SIGINT)
        return before(*arguments)

    monkeypatch.setattr(sampling, "choose", interrupted)
    assert main([*words, "--out", str(tmp_path)]) == 130
    signal.signal(signal.SIGINT, ignored)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("infodyn: interrupted;")
    assert "the same command goes on from there" in said
    assert [path.name for path in (tmp_path / "replies" / "study").iterdir()] == ["00000.npz"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert_same(results.open_result(tmp_path), whole)


BAD = {
    "no prompts": ("", [], "no prompts; give at least one, a line each"),
    "an empty prompt": ('{"prompt": "a"}\n{"prompt": " "}\n', [], "line 2: an empty prompt"),
    "a prompt twice": ('{"prompt": "a"}\n{"prompt": "a"}\n', [], "the prompt of"),
    "a prompt without its field": ('{"text": "a"}\n', [], "prompt"),
    "a prompt longer than the context": (
        json.dumps({"prompt": "a clock " * 200}),
        [],
        "of a reply, where the context",
    ),
    "one trial": (None, ["--trials", "1"], "trials: 1 asked; replies are compared within a prompt"),
    "temperature 0": (
        None,
        ["--temperature", "0"],
        "at 0 all 4 trials are the same reply, so there is nothing",
    ),
    "a negative temperature": (None, ["--temperature=-1"], "temperature: -1 asked, it is at least 0"),
    "alpha 0": (None, ["--alpha", "0"], "alpha 0.0: it lies in (0, 1]"),
    "alpha above 1": (None, ["--alpha", "1.5"], "alpha 1.5: it lies in (0, 1]"),
    "alpha that is no number": (None, ["--alpha", "nan"], "alpha nan: it lies in (0, 1]"),
    "replies of one token": (None, ["--tokens", "1"], "a reply of one token has no motion"),
    "an unknown step": (None, ["--step", "word"], "step: 'word' is not one of"),
    "an unknown null": (None, ["--nulls", "shuffled"], "nulls: 'shuffled' is not one of untrained, none"),
    "a template that is not there": (None, ["--chat"], "the model's tokenizer has no chat template"),
    "no sweep inside": (None, ["--inside", "nowhere"], "nowhere: no result.nc there"),
    "too few trials to compare instances": (
        None,
        ["--trials", "3", "--instantiation", "--instantiation-tokens", "4"],
        "4 trials or more",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_in_one_line_before_anything_is_written(name, words, tmp_path, capsys):
    prompts, more, message = BAD[name]
    asked = [*words, *more]
    if prompts is not None:
        (tmp_path / "prompts.jsonl").write_text(prompts)
        asked += ["--prompts", str(tmp_path / "prompts.jsonl")]
    assert main([*asked, "--out", str(tmp_path / "seen")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert message in said[-1]
    assert sum(line.startswith("infodyn: ") for line in said) == 1
    assert not (tmp_path / "seen").exists()
