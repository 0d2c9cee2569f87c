"""Memory: what a budget chooses is chosen once, and where memory is not enough the run says what would do."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import families
import pytest
from test_sweeping import read, write_documents

from infodyn_interp import RequestError
from infodyn_interp.models import open_model
from infodyn_interp.run import read_bytes
from infodyn_interp.sweeping import merge, sweep, sweep_part
from infodyn_interp.sweeping.memory import MIB, MOST, budgeted, needs
from infodyn_interp.sweeping.settings import settle

PLAIN = {"state_rank": 4, "layers": [1], "nulls": (), "limits": ()}


@pytest.fixture(scope="module")
def model(tiny_tokenizer):
    return open_model(families.build("llama"), tokenizer=tiny_tokenizer)


@pytest.fixture(scope="module")
def texts(model):
    return read(model, write_documents(20))


@pytest.fixture(scope="module")
def long_texts(model):
    """Windows whose score arrays are large: 24 documents of seven."""
    documents = write_documents(32, words=420)
    return read(model, documents, window=families.CONTEXT, windows_per_document=7)


def most(model, texts, settings, **changed):
    return max(needs(model, texts, replace(settings, **changed)).values())


def test_more_windows_layers_limits_and_twins_never_take_less(model, texts, long_texts):
    settings = settle(model, nulls=(), layers=[0], limits=())
    sizes = [most(model, texts, settings, micro_batch=count) for count in range(1, MOST)]
    assert sizes == sorted(sizes)
    assert most(model, long_texts, settings) > most(model, texts, settings)
    assert needs(model, texts, replace(settings, layers=(0, 1)))["fit"] > needs(model, texts, settings)["fit"]
    assert needs(model, texts, replace(settings, limits=(0,)))["fit"] > needs(model, texts, settings)["fit"]
    assert most(model, texts, settings, nulls=("untrained",)) > most(model, texts, settings)
    assert "carry" not in needs(model, texts, replace(settings, carry=False))


def test_a_budget_holds_the_largest_micro_batch_that_fits_it(model, long_texts):
    settings = settle(model, nulls=(), carry=False)
    for count in (1, 7, MOST):
        budget = f"{-(-most(model, long_texts, settings, micro_batch=count) // MIB)}MiB"
        chosen = budgeted(model, long_texts, settings, budget, None).micro_batch
        assert chosen >= count
        assert most(model, long_texts, settings, micro_batch=chosen) <= read_bytes(budget)
        if chosen < MOST:
            assert most(model, long_texts, settings, micro_batch=chosen + 1) > read_bytes(budget)
    assert budgeted(model, long_texts, settings, None, None) == settings


@pytest.mark.parametrize("asked", [None, 9])
def test_a_budget_too_small_names_one_that_does(model, long_texts, asked):
    settings = settle(model, micro_batch=asked, nulls=())
    with pytest.raises(
        RequestError, match=r"memory: 100MiB asked, \w+ with micro_batch \d+ takes"
    ) as refused:
        budgeted(model, long_texts, settings, "100MiB", asked)
    (least,) = re.findall(r'memory = "(\w+)" would do', str(refused.value))
    assert budgeted(model, long_texts, settings, least, asked).micro_batch >= 1
    less = f"{int(least.removesuffix('MiB')) - 1}MiB"
    with pytest.raises(RequestError):
        budgeted(model, long_texts, settings, less, asked)


def test_what_a_budget_chose_is_kept_with_the_run_and_the_same_in_every_part(model, texts, tmp_path):
    asked = PLAIN | {"carry": False, "memory": "8GiB"}
    sweep_part(model, texts, "survey", out=tmp_path, **asked)
    kept = json.loads((tmp_path / "shards" / "run.json").read_text())
    assert kept["settings"]["micro_batch"] == kept["run"]["micro_batch"] == MOST
    merge(tmp_path)
    result = sweep(model, texts, out=tmp_path, **asked)
    assert json.loads(result.attrs["run"])["micro_batch"] == MOST
    again = sweep(model, texts, out=tmp_path, **PLAIN, carry=False, micro_batch=MOST)
    assert again.attrs["run_digest"] == result.attrs["run_digest"]
    with pytest.raises(RequestError, match=f"micro_batch was {MOST}, now 4"):
        sweep(model, texts, out=tmp_path, **PLAIN, carry=False)


SHORT = """
import resource, sys
from pathlib import Path
import families
from test_sweeping import read, write_documents
from transformers import PreTrainedTokenizerFast
from infodyn_interp import RunError, models
from infodyn_interp.sweeping import sweep

tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
model = models.open_model(families.build("llama"), tokenizer=tokenizer)
texts = read(model, write_documents(32, words=420), window=families.CONTEXT, windows_per_document=7)
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 60 * 2**20, resource.getrlimit(resource.RLIMIT_AS)[1]))
asked = {"state_rank": 4, "layers": [1], "nulls": (), "limits": (), "carry": False, "threads": 1}
try:
    sweep(model, texts, micro_batch=160, out=Path(sys.argv[2]), **asked)
except RunError as reason:
    print(reason)
"""


def test_out_of_memory_is_one_line_and_finished_shards_stay(
    model, long_texts, tiny_tokenizer_folder, tmp_path
):
    """In a process of its own: what a long one has freed before is room too."""
    count = 160  # a score array of 40 MiB
    asked = PLAIN | {"carry": False, "micro_batch": count, "threads": 1, "out": tmp_path}
    sweep_part(model, long_texts, "survey", **asked)
    merge(tmp_path)
    before = sorted(path.name for path in (tmp_path / "shards").iterdir())
    line = [sys.executable, "-c", SHORT, str(tiny_tokenizer_folder), str(tmp_path)]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": paths}
    )
    (said,) = done.stdout.splitlines()[-1:] or [done.stderr]
    assert re.search(r"fit of study, shard 1 of 1.* out of memory", said), done.stderr
    (fits,) = re.findall(r"micro_batch = (\d+) would fit", said)
    assert 1 <= int(fits) <= count // 2
    left = {path.name for path in (tmp_path / "shards").iterdir()}
    assert set(before) <= left
    sweep_part(model, long_texts, "fit", **asked)
    merge(tmp_path)
    assert "study-fit.npz" in {path.name for path in (tmp_path / "shards").iterdir()}
