"""On a GPU the same is found as on the CPU: every family's sweep, measures, replies, half precision, memory.

What is compared is every number of a result, so that what was left on another device, or read from it too early, shows.
"""

import json
from pathlib import Path

import families
import numpy as np
import pytest
import torch
import xarray
from test_sweeping import WORDS

from infodyn_interp import sweep
from infodyn_interp.errors import RequestError
from infodyn_interp.models import Model, open_model
from infodyn_interp.observing import trace
from infodyn_interp.sweeping.measuring import measure
from infodyn_interp.texts import Texts, read_texts

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch.cuda.is_available() is False: no GPU on this machine"
)
WINDOW = 72
ASKED = {"state_rank": 4, "limits": (), "ladder_documents": 8, "nulls": ("untrained",), "seed": 1}
DEVICES = ("cuda", "cpu")


def opened(name: str, device: str, tokenizer: object, dtype: str | None = None) -> Model:
    return open_model(families.build(name), tokenizer=tokenizer, device=device, dtype=dtype)


@pytest.fixture(scope="module")
def texts(tiny_tokenizer: object) -> Texts:
    draw = np.random.default_rng(0)
    documents = [" ".join(draw.choice(WORDS, 160)) for _ in range(18)]
    return read_texts(documents, tiny_tokenizer, window=WINDOW, windows_per_document=1, reference_documents=6)


def far(one: xarray.DataTree, other: xarray.DataTree) -> dict[str, float]:
    """Largest distance of each number of two results, over the largest of its kind; time and place are left out."""
    found = {}
    for node in one.subtree:
        for name, values in node.data_vars.items():
            if values.dtype.kind == "f" and not node.path.startswith("/cost"):
                mine, theirs = values.values, other[node.path][name].values
                assert (np.isfinite(mine) == np.isfinite(theirs)).all(), f"{node.path}/{name}"
                known = np.isfinite(theirs)
                scale = np.abs(theirs[known]).max(initial=1e-9)
                apart = np.abs(mine[known] - theirs[known]).max(initial=0)
                found[f"{node.path}/{name}"] = float(apart / scale)
    return found


@pytest.mark.parametrize("family", families.NAMES)
def test_a_family_s_sweep_finds_what_it_finds_on_the_cpu(
    family: str, texts: Texts, tiny_tokenizer: object
) -> None:
    results = [sweep(opened(family, device, tiny_tokenizer), texts, **ASKED) for device in DEVICES]
    apart = far(*results)
    # what a head without a carry-over leaves is rounding, and shares no digit: its group is held to the middle alone
    told = {name: value for name, value in apart.items() if not name.startswith("/carry")}
    assert max(told.values()) < 0.02, sorted(told.items(), key=lambda one: -one[1])[:8]
    assert np.median(list(apart.values())) < 1e-4


def test_measures_and_replies_are_those_of_the_cpu(
    texts: Texts, tiny_tokenizer: object, tmp_path: Path
) -> None:
    measured, observed = [], []
    for device in DEVICES:
        model, out = opened("llama", device, tiny_tokenizer), tmp_path / device
        sweep(model, texts, out=out, **ASKED)
        measured.append(measure(model, texts, inside=out, fit_tokens=400, walked=4))
        observed.append(trace(model, ["The train"], trials=3, tokens=12, inside=out, seed=2))
    assert np.median(list(far(*measured).values())) < 1e-3
    assert set(observed[0].children) == set(observed[1].children)


def test_half_precision_finds_nearly_what_it_finds_on_the_cpu(texts: Texts, tiny_tokenizer: object) -> None:
    results = [
        sweep(opened("llama", device, tiny_tokenizer, "bfloat16"), texts, **ASKED) for device in DEVICES
    ]
    gains = [result["terms"]["gain"].values for result in results]
    assert np.nanmax(np.abs(gains[0] - gains[1])) < 0.05


def test_a_budget_of_memory_is_of_the_gpu_too(texts: Texts, tiny_tokenizer: object) -> None:
    model = opened("llama", "cuda", tiny_tokenizer)
    budget = sweep(model, texts, memory="12GiB", **ASKED)
    assert json.loads(budget.attrs["run"])["micro_batch"] > 4
    with pytest.raises(RequestError, match="memory: 1MiB asked"):
        sweep(model, texts, memory="1MiB", **ASKED)
