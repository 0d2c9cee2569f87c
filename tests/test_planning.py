"""A plan: what it counts is what is read, what it weighs is what is written."""

import json
import os
import threading
from contextlib import suppress
from dataclasses import replace

import families
import pytest
from test_sweeping import read, write_documents

from infodyn_interp import RequestError, planning, results
from infodyn_interp.models import open_model
from infodyn_interp.sweeping import merge, sweep, sweep_part

ASKED = {"state_rank": 4, "layers": [0, 2], "limits": [2], "nulls": ["shuffled_tokens", "permuted_queries"]}


@pytest.fixture(scope="module")
def model(tiny_tokenizer):
    return open_model(families.build("llama"), tokenizer=tiny_tokenizer)


@pytest.fixture(scope="module")
def texts(model):
    return read(model, [*write_documents(34), write_documents(1)[0], "too short"])


@pytest.fixture(scope="module")
def forecast(model, texts):
    return planning.plan(model, texts, repeats=1, **ASKED)


def size_of(folder):
    """Bytes of a folder, though files come and go."""
    sizes = []
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                sizes.append(os.stat(os.path.join(place, name)).st_size)
    return sum(sizes)


@pytest.fixture(scope="module")
def ran(model, texts, tmp_path_factory):
    """The run itself: its result, most bytes in its folder at once, bytes of its result."""
    out, sizes, over = tmp_path_factory.mktemp("out"), [0], threading.Event()

    def watch():
        while not over.wait(0.01):
            sizes.append(size_of(out))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = sweep(model, texts, out=out, **ASKED)
    finally:
        over.set()
        watcher.join()
    return result, max(sizes), (out / results.FILE).stat().st_size


def test_tokens_by_stage_are_those_that_the_run_reads(forecast, ran):
    cost = results.table(ran[0], "cost").set_index("stage")
    read = (cost["seconds"] * cost["tokens_per_second"]).dropna().round().astype(int)
    planned = {}
    for one in forecast.stages:
        name = one.stage if one.part == "study" else f"null {one.part}"
        planned[name] = planned.get(name, 0) + one.passes * one.tokens
    assert planned.pop("reduce") == 0
    assert planned == read.to_dict()
    assert forecast.tokens_read == sum(planned.values())


def test_disk_is_within_a_tenth_of_what_the_run_writes(forecast, ran):
    _, most, result = ran
    assert forecast.disk_mib * 2**20 == pytest.approx(most, rel=0.1)
    assert forecast.result_mib * 2**20 == pytest.approx(result, rel=0.1)


def test_a_plan_says_what_is_left_out_and_every_stage_takes_time(forecast, ran):
    assert forecast.census["duplicates"] == forecast.census["too_short"] == 1
    assert forecast.census["tokens_lost"] > 0
    assert all(one.seconds > 0 for one in forecast.stages)
    assert "Documents left out: exact duplicates 1, too short for a window 1." in results.summary(ran[0])
    assert json.loads(json.dumps(forecast.as_dict()))["peak_mib"] == max(forecast.memory_mib.values())


def test_precisions_and_ablations_are_counted_as_they_are_read(model, texts):
    more = {"ablate": "2.1", "precisions": ["bfloat16"]}
    asked = ASKED | {"layers": [2], "nulls": [], "limits": [], "null_share": 0.17}
    planned = {one.stage: one for one in planning.plan(model, texts, repeats=1, **asked, **more).stages}
    cost = results.table(sweep(model, texts, **asked, **more), "cost").set_index("stage")
    read = cost["seconds"] * cost["tokens_per_second"]
    assert planned["precisions"].passes * planned["precisions"].tokens == round(read["precisions"])
    # the survey of states and the intact pass of each term are not reported as progress
    ablation = planned["ablation"]
    assert (ablation.passes - 2 * 4) * ablation.tokens == round(read["ablation"])


def test_fewer_folds_a_shard_and_learned_positions_weigh_what_they_write(tiny_tokenizer, tmp_path):
    model = open_model(families.build("gpt2"), tokenizer=tiny_tokenizer)
    texts = read(model, write_documents(18), folds=6)
    asked = {"state_rank": 4, "layers": [1], "nulls": [], "carry": False, "documents_per_shard": 2}
    forecast = planning.plan(model, texts, repeats=1, **asked)
    (survey, fit, _) = forecast.stages
    sweep_part(model, texts, "survey", out=tmp_path, **asked)
    assert size_of(tmp_path / "shards" / "study-survey") == pytest.approx(survey.shards_mib * 2**20, rel=0.02)
    merge(tmp_path)
    sweep_part(model, texts, "fit", out=tmp_path, **asked)
    assert size_of(tmp_path / "shards" / "study-fit") == pytest.approx(fit.shards_mib * 2**20, rel=0.02)


def test_what_a_sweep_refuses_a_plan_refuses(model, texts):
    with pytest.raises(RequestError, match="state_rank: 99 asked"):
        planning.plan(model, texts, state_rank=99)
    with pytest.raises(RequestError, match="memory: 1MiB asked"):
        planning.plan(model, texts, memory="1MiB", **ASKED)
    with pytest.raises(RequestError, match="model: workers open it themselves"):
        planning.plan(replace(model, origin=None), texts, workers=2, **ASKED)
