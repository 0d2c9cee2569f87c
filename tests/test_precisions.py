"""The carry-over of the same weights in other dtypes: nothing from nothing, white rounding in the nugget alone."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import families
import numpy as np
import pytest
import torch
import xarray
from test_sweeping import read, write_documents

import infodyn_interp as idi
from infodyn_interp.errors import RequestError
from infodyn_interp.models import Model, open_model, recast
from infodyn_interp.sweeping import gather, sweep
from infodyn_interp.sweeping.passes import Study
from infodyn_interp.sweeping.precisions import Frozen, Precision, read_precision
from infodyn_interp.sweeping.settings import settle
from infodyn_interp.texts import Batch, Texts

NOISE = 0.3  # nats
LAYER = 1
PLAIN = {"state_rank": 4, "nulls": (), "limits": ()}


@pytest.fixture(scope="module")
def model(tiny_tokenizer: object) -> Model:
    return open_model(families.build("llama"), tokenizer=tiny_tokenizer)


@pytest.fixture(scope="module")
def texts(model: Model) -> Texts:
    return read(model, write_documents(32), window=96)


@pytest.fixture(scope="module")
def result(model: Model, texts: Texts) -> xarray.DataTree:
    return sweep(model, texts, layers=[0, LAYER], precisions=["bfloat16", "float64"], **PLAIN)


@pytest.fixture(scope="module")
def planted(model: Model, texts: Texts) -> xarray.Dataset:
    """In place of dtypes the model itself, its twin in the same dtype, and one with white noise in its scores."""
    draw = torch.Generator().manual_seed(0)

    def add_noise(_module: object, _inputs: object, scores: torch.Tensor) -> torch.Tensor:
        return scores + NOISE * torch.randn(scores.shape, generator=draw)

    def read_planted(
        study: Study, frozen: Frozen, _names: object, batches: Callable[[str], Iterable[Batch]]
    ) -> dict[str, Precision]:
        twin, noisy = recast(study.model, "float32"), recast(study.model, "float32")
        noisy.bridge.blocks[LAYER].attn.hook_attn_scores.register_forward_hook(add_noise)
        return {
            name: read_precision(replace(study, model=one), frozen, batches(name))
            for name, one in (("own", study.model), ("twin", twin), ("noisy", noisy))
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("infodyn_interp.sweeping.read_precisions", read_planted)
        made = sweep(
            model, texts, layers=[LAYER], reference="zero", null_share=1.0, precisions=["float32"], **PLAIN
        )
    return made["precisions"].to_dataset()


def test_a_twin_in_the_same_dtype_differs_by_exactly_nothing(planted: xarray.Dataset) -> None:
    twin, own = planted.sel(dtype="twin"), planted.sel(dtype="own")
    for name in planted.data_vars:
        np.testing.assert_array_equal(twin[name], own[name])
    assert not twin[["contrast", "contrast_low", "contrast_high", "rise_contrast"]].to_array().any()
    assert bool((own["magnitude"] > 0).all())


def test_white_rounding_of_scores_raises_the_nugget_and_neither_sill_nor_rise(
    planted: xarray.Dataset,
) -> None:
    noisy, own = planted.sel(dtype="noisy"), planted.sel(dtype="own")
    assert bool((abs(noisy["rise_contrast"]) < 0.15 * NOISE**2).all())
    covered = (noisy["rise_contrast_low"] <= 0) & (noisy["rise_contrast_high"] >= 0)
    assert bool(covered.all())
    free = (own["nugget"] > 0).values  # on its floor the nugget leaves white noise to the sill
    assert free.sum() >= 3
    np.testing.assert_allclose((noisy["nugget"] - own["nugget"]).values[free], NOISE**2, rtol=0.1)
    assert (abs(noisy["sill"] - own["sill"]).values[free] < 0.4 * NOISE**2).all()
    # the filter lets a part of it through: |M| alone would call it carried
    assert bool((noisy["contrast_low"] > 0).all())


def test_the_runs_own_dtype_stands_first_and_the_others_beside_it(result: xarray.DataTree) -> None:
    found = result["precisions"].to_dataset()
    assert found["dtype"].values.tolist() == ["float32", "bfloat16", "float64"]
    assert found.attrs["documents"] == 8  # a third of 24
    assert not found["contrast"].sel(dtype="float32").any()
    frame = idi.table(result, "precisions", heads="1.2")
    assert frame["dtype"].tolist() == ["float32", "bfloat16", "float64"]


def test_a_wider_dtype_moves_what_float32_rounds_and_a_narrower_one_far_more(result: xarray.DataTree) -> None:
    found = result["precisions"].to_dataset()
    wider, narrower = (abs(found["contrast"].sel(dtype=name)) for name in ("float64", "bfloat16"))
    scale = found["magnitude"].sel(dtype="float32")
    assert bool((wider > 0).any())
    assert bool((wider < 1e-5 * scale).all())
    assert float((narrower / wider).median()) > 100


def test_sizes_in_float64_are_not_cut_to_float32(tiny_tokenizer: object) -> None:
    wide = open_model(families.build("llama", dtype=torch.float64), tokenizer=tiny_tokenizer)
    made = sweep(wide, read(wide, write_documents(20), window=96), layers=[LAYER], series=True, **PLAIN)
    values = made["carry/magnitude_series"].values
    assert values.dtype == np.float64
    kept = values[np.isfinite(values)]
    assert (kept != kept.astype(np.float32)).mean() > 0.9


def test_precisions_of_no_carry_over_or_of_no_dtype_are_refused(model: Model, texts: Texts) -> None:
    with pytest.raises(RequestError, match='precisions: "int8" is not one of float32'):
        sweep(model, texts, precisions=["int8"], **PLAIN)
    with pytest.raises(RequestError, match="precisions: they are of the carry-over"):
        sweep(model, texts, precisions=["float64"], carry=False, **PLAIN)


def test_what_interferes_is_told_of_every_head(result: xarray.DataTree) -> None:
    carry = result["carry"].to_dataset()
    assert carry["interference"].dims == ("layer", "head")
    assert bool((carry["interference_low"] < carry["interference"]).all())
    assert bool((carry["interference_p"] <= carry["interference_q"]).all())
    assert {"interference", "interference_p", "interference_q"} <= set(idi.table(result, "carry"))


def test_a_run_in_half_precision_sums_in_double_and_finds_the_energies_of_single(
    model: Model, texts: Texts, result: xarray.DataTree
) -> None:
    halved = gather(
        recast(model, "bfloat16"), texts, settle(model, layers=[LAYER], state_rank=4, carry=False)
    )
    assert halved.moments[LAYER].cross_row.dtype == np.float64
    found, single = halved.fits[LAYER].rms, result["energy/rms"].sel(layer=LAYER).values
    np.testing.assert_allclose(found, single, rtol=0.05)
