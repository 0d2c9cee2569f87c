"""A whole sweep of windows longer than a tile, and sweeps of every fourth query."""

import json

import families
import numpy as np
import pytest
import xarray
from test_sweeping import write_documents

from infodyn_interp.errors import RequestError
from infodyn_interp.identify.verdict import judge
from infodyn_interp.models import Model, open_model
from infodyn_interp.planted.calibration import survey_basis, weigh_energies
from infodyn_interp.planted.worlds import WORLDS, draw
from infodyn_interp.sweeping import sweep
from infodyn_interp.texts import Texts, read_texts

WINDOW = 544  # four tiles of 128 and a quarter
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 24}


@pytest.fixture(scope="module")
def model(tiny_tokenizer: object) -> Model:
    module = families.build("llama", max_position_embeddings=4096, num_hidden_layers=1, **SMALL)
    return open_model(module, tokenizer=tiny_tokenizer)


def read(model: Model, count: int, words: int, window: int) -> Texts:
    return read_texts(
        write_documents(count, words),
        model.tokenizer,
        window=window,
        windows_per_document=1,
        reference_documents=4,
    )


def test_a_sweep_of_long_windows_has_all_that_a_short_one_has(model: Model) -> None:
    texts = read(model, 24, 240, WINDOW)
    assert texts.documents == 20  # a block of the swap gate, in batches
    result = sweep(
        model,
        texts,
        state_rank=2,
        ladder_documents=8,
        limits=(),
        nulls=("permuted_queries", "swapped_documents"),
    )
    run = json.loads(result.attrs["run"])
    assert (run["query_tile"], run["query_stride"]) == (128, 1)
    assert result["basis/bin_edge"].values[-2:].tolist() == [512, WINDOW]
    for name in (
        "terms/gain",
        "carry/rho",
        "carry/variogram",
        "carry/variogram_permuted",
        "carry/ladder_sill",
    ):
        assert np.isfinite(result[name]).all(), name
    assert np.isfinite(result["carry/magnitude"].sel(query=slice(12, None))).all()
    assert np.isfinite(result["verdicts/null_gain"].sel(null="swapped_documents")).any()


@pytest.fixture(scope="module")
def strided(model: Model) -> xarray.DataTree:
    texts = read(model, 12, 80, 160)
    return sweep(
        model, texts, state_rank=2, limits=(), nulls=("permuted_queries",), query_stride=4, ladder_documents=8
    )


def test_a_strided_run_says_so_and_counts_lags_in_tokens(strided: xarray.DataTree) -> None:
    assert json.loads(strided.attrs["run"])["query_stride"] == 4
    assert strided["carry/lag"].values.tolist() == [4, 8, 12, 16, 24, 32, 48, 64]
    assert strided["carry/query"].values.tolist() == list(range(12, 160, 4))
    coverage = strided["example/coverage"].values
    assert coverage[4] == len(range(12, 160, 4))
    assert np.isfinite(strided["terms/gain"]).all()
    assert np.isfinite(strided["carry/variogram_permuted"]).all()


def test_another_stride_is_another_run(model: Model, tmp_path: object) -> None:
    texts = read(model, 12, 80, 64)
    arguments = {"state_rank": 2, "limits": (), "nulls": (), "carry": False, "out": tmp_path}
    sweep(model, texts, query_stride=2, **arguments)
    with pytest.raises(RequestError, match="query_stride was 2, now 3"):
        sweep(model, texts, query_stride=3, **arguments)
    with pytest.raises(RequestError, match="query_stride: 0 asked"):
        sweep(model, texts, query_stride=0, **arguments)


def test_what_was_planted_comes_back_from_every_fourth_query() -> None:
    worlds = [WORLDS[name] for name in ("noise", "prosody_20", "track", "carry", "key_effects")]
    generator = np.random.default_rng(5)
    basis = survey_basis(worlds[0], 160, 5, generator)
    evidence = weigh_energies(draw(worlds, 24, 160, generator), basis, query_stride=4)
    found = judge([evidence]).verdict[0].astype(str)  # [row, head]
    rows = {"prosody": 0, "rhythm": 1, "state": 2, "track": 3, "carry": 4}
    for head, world in enumerate(worlds):
        for row, place in rows.items():
            assert (found[place, head] == "IDENTIFIED") == (row in world.present), (row, head)
