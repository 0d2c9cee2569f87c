"""The main job from texts to result: laws of a stream, refusals before any work, nothing half-written."""

import json
import math
from pathlib import Path

import families
import numpy as np
import pytest
import torch
import xarray

import infodyn_interp as idi
from infodyn_interp import sweeping
from infodyn_interp.energy import ablate
from infodyn_interp.energy.gauge import support_of
from infodyn_interp.energy.moments import Moments
from infodyn_interp.errors import RequestError, RunError
from infodyn_interp.identify.nulls import NULLS
from infodyn_interp.models import Model, open_model, untrained_twin
from infodyn_interp.reducing import label_basis, reduce
from infodyn_interp.reducing.structure import label_profile
from infodyn_interp.results import open_result
from infodyn_interp.sweeping import Settings, gather, sweep
from infodyn_interp.texts import Texts, read_pieces, read_texts

WINDOW = 48
SENTENCE = "the clock kept its own time and nobody waved . , why would they ? it was raining \n numbers 1 42"
WORDS = SENTENCE.split(" ")
FIELDS = {"state_rank": 4, "carry": False, "nulls": (), "limits": ()}  # of P and T alone
FITTED = ("basis", "example", "reference", "energy", "terms")


def write_documents(count: int, words: int = 150, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, words)) for _ in range(count)]


@pytest.fixture(scope="module")
def model(tiny_tokenizer: object) -> Model:
    return open_model(families.build("llama"), tokenizer=tiny_tokenizer)


def read(model: Model, documents: list[str], **settings: object) -> Texts:
    return read_texts(
        documents,
        model.tokenizer,
        **{"window": WINDOW, "windows_per_document": 3, "reference_documents": 8, **settings},
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study") / "a b" / "é"


@pytest.fixture(scope="module")
def result(model: Model, out: Path) -> xarray.DataTree:
    return sweep(model, read(model, write_documents(20)), state_rank=4, out=out)


def test_a_result_holds_every_group_with_units_and_opens_with_plain_xarray(
    model: Model, out: Path, result: xarray.DataTree
) -> None:
    assert sorted(path.name for path in out.iterdir()) == ["frozen", "result.nc"]
    with xarray.open_datatree(out / "result.nc", engine="h5netcdf") as opened:
        groups = {
            "basis",
            "example",
            "reference",
            "energy",
            "terms",
            "verdicts",
            "carry",
            "spectrum",
            "profile",
        }
        assert set(opened.children) == groups | {"limits", "cost"}
        for group in opened.children.values():
            for variable in group.dataset.data_vars.values():
                assert variable.attrs["units"]
                assert variable.attrs["long_name"]
        np.testing.assert_array_equal(opened["terms/gain"], result["terms/gain"])
        assert opened.attrs["model_digest"] == model.digest
        assert json.loads(opened.attrs["run"])["layers"] == [0, 1, 2]
        assert opened.attrs["parity_logits_relative"] < 1e-6
    assert len(idi.table(result, "terms")) == model.layers * model.heads * 4


def test_the_same_run_is_not_done_twice_and_another_is_refused(model: Model, tmp_path: Path) -> None:
    texts = read(model, write_documents(20))
    first = sweep(model, texts, layers=[1], out=tmp_path, **FIELDS)
    written = (tmp_path / "result.nc").stat().st_mtime_ns
    again = sweep(model, texts, layers=[1], out=tmp_path, **FIELDS)
    assert (tmp_path / "result.nc").stat().st_mtime_ns == written
    np.testing.assert_array_equal(first["terms/gain"], again["terms/gain"])
    with pytest.raises(RequestError, match="state_rank was 4, now 3"):
        sweep(model, texts, layers=[1], out=tmp_path, **FIELDS | {"state_rank": 3})
    assert (tmp_path / "result.nc").stat().st_mtime_ns == written


def without_nulls(result: xarray.DataTree, group: str) -> xarray.Dataset:
    return result[group].to_dataset().drop_dims("null", errors="ignore")


def test_a_run_repeats_to_the_bit(model: Model, result: xarray.DataTree) -> None:
    again = sweep(model, read(model, write_documents(20)), **FIELDS)
    for group in FITTED:
        xarray.testing.assert_identical(without_nulls(result, group), again[group].to_dataset())


def test_the_order_of_documents_changes_nothing(model: Model, result: xarray.DataTree) -> None:
    turned = sweep(model, read(model, write_documents(20)[::-1]), **FIELDS)
    for group in ("basis", "reference", "energy", "terms"):
        xarray.testing.assert_identical(without_nulls(result, group), turned[group].to_dataset())


def test_the_size_of_a_batch_changes_nothing_beyond_rounding(model: Model, result: xarray.DataTree) -> None:
    other = sweep(model, read(model, write_documents(20)), micro_batch=7, **FIELDS)
    for name in ("gain", "share", "marginal_gain"):
        np.testing.assert_allclose(other[f"terms/{name}"], result[f"terms/{name}"], atol=2e-4)
    np.testing.assert_allclose(other["energy/rms"], result["energy/rms"], rtol=1e-4)


def test_moments_of_a_corpus_are_the_sum_over_its_documents(model: Model) -> None:
    texts = read(model, write_documents(20))
    settings = Settings((1,), state_rank=4)
    whole = gather(model, texts, settings).moments[1]
    parts = [Moments.empty(whole.columns, model.heads, texts.folds) for _ in range(3)]
    assert sum(parts, start=parts[0]).pairs.sum() == 0
    assert whole.folds == texts.folds
    assert (whole.pairs > 0).all()


def test_parts_of_the_example_add_up_to_its_energy(result: xarray.DataTree) -> None:
    received = result["example/received"]
    parts = received.sel(part=["rhythm", "state", "track", "nuisance", "residual"]).sum("part", skipna=False)
    np.testing.assert_allclose(parts, received.sel(part="energy"), atol=1e-9)
    coverage = result["example/coverage"].values
    assert (np.isnan(received.values).all((0, 1, 2)) == (coverage == 0)).all()


def test_the_own_surface_leaves_energies_at_rounding(model: Model) -> None:
    made = sweep(model, read(model, write_documents(20)), reference="own", **FIELDS)
    assert float((made["energy/rms"] / made["energy/score_rms"]).max()) <= 1e-5
    np.testing.assert_allclose(made["reference/r2"], 1, atol=1e-6)


def test_a_zero_surface_has_no_fit_and_leaves_the_scores(model: Model) -> None:
    made = sweep(model, read(model, write_documents(20)), reference="zero", **FIELDS)
    assert bool(made["reference/r2"].isnull().all())
    np.testing.assert_array_equal(made["energy/rms"], made["energy/score_rms"])


def test_layers_alone_give_what_they_give_together(model: Model, result: xarray.DataTree) -> None:
    alone = sweep(model, read(model, write_documents(20)), layers=[2, 1, 2], **FIELDS)
    assert alone["terms"].layer.values.tolist() == [1, 2]
    xarray.testing.assert_identical(
        alone["terms"].to_dataset(), result["terms"].to_dataset().sel(layer=[1, 2])
    )


def test_layers_taken_at_once_give_the_bits_of_one_by_one(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings((0, 1, 2), state_rank=4, limits=(1, 2), nulls=("permuted_queries",))
    gathered = gather(model, read(model, write_documents(20)), settings)
    pieces, made = read_pieces(model.tokenizer), []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        made.append(reduce(gathered, pieces, model.head_width, "lexical", {}, settings))
    for name, group in made[0].items():
        xarray.testing.assert_identical(group, made[1][name])


def test_the_basis_keeps_the_coefficients_without_each_fold(model: Model) -> None:
    settings = Settings((0, 2), state_rank=4, carry=False)
    gathered = gather(model, read(model, write_documents(20)), settings)
    kept = label_basis(gathered)["coefficient_without"]
    assert kept.dims == ("fold", "layer", "head", "column")
    for layer, fit in gathered.fits.items():
        np.testing.assert_allclose(kept.sel(layer=layer), fit.coefficient_without, rtol=1e-6)
        np.testing.assert_array_equal(kept.sel(layer=layer).fold, np.arange(12))


def test_terms_of_named_heads_are_taken_out_on_the_documents_of_the_nulls(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "PLACEBOS", 2)
    texts, told = read(model, write_documents(20)), []
    sweep(
        model,
        texts,
        layers=[0, 2],
        state_rank=4,
        carry=False,
        nulls=(),
        limits=(),
        seed=3,
        ablate="2.1,0.3",
        out=tmp_path,
        progress=lambda stage, done, total: told.append((done, total)) if stage == "ablation" else None,
    )
    made = open_result(tmp_path)
    assert json.loads(made.attrs["run"])["ablate"] == ["0.3", "2.1"]
    group = made["ablation"].to_dataset()
    assert (group.layer.values.tolist(), group["head"].values.tolist()) == ([0, 2], [1, 3])
    assert group["document"].values.tolist() == [0, 1, 2, 3]  # of 12 folds a third
    asked = np.array([[False, True], [True, False]])
    for name, values in group.data_vars.items():
        assert values.attrs["long_name"], name
        known = values.transpose("layer", "head", ...).notnull().values
        assert (known.reshape(2, 2, -1).any(-1) == asked).all(), name
    batch = next(texts.part(windows_per_document=1).batches(4))
    for term in ("rhythm", "track"):
        alone = ablate(model, batch, made, layer=2, head=1, term=term, placebos=2, seed=3)
        here = group.sel(layer=2, head=1, term=term)
        for name in ("difference", "difference_low", "difference_by_kind_high", "unseen_share"):
            np.testing.assert_allclose(here[name], np.squeeze(alone[name]), atol=1e-5)
        assert bool(here["no_causal_effect"]) == bool(alone["no_causal_effect"])
    assert told == sorted(told)
    assert told[-1] == (8 * 5 * 4 * WINDOW,) * 2  # heads and terms, the removal and its placebos, documents
    assert float(made["cost/tokens_per_second"].sel(stage="ablation")) > 0
    table = idi.table(made, "ablation")
    assert len(table) == 2 * 4 * 4
    assert set(zip(table["layer"], table["head"], strict=True)) == {(0, 3), (2, 1)}


def test_scores_that_cannot_be_bent_are_refused_before_any_work(
    tiny_tokenizer: object, tmp_path: Path
) -> None:
    stiff = open_model(families.build("opt"), tokenizer=tiny_tokenizer)
    attention, inherited = stiff.bridge.blocks[1].attn, type(stiff.bridge.blocks[1].attn).forward
    attention.__class__ = type(
        "Elsewhere", (type(attention),), {"forward": lambda *a, **k: inherited(*a, **k)}
    )
    with pytest.raises(RequestError, match="layer 1: its scores cannot be bent"):
        sweep(stiff, read(stiff, write_documents(20)), state_rank=4, ablate=["1.0"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_progress_counts_every_token(model: Model) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    texts = read(model, write_documents(20))
    sweep(
        model,
        texts,
        layers=[0],
        progress=lambda stage, done, total: seen.setdefault(stage, []).append((done, total)),
        **FIELDS,
    )
    assert seen["survey"][-1] == (texts.tokens("reference"),) * 2
    assert seen["fit"][-1] == (texts.tokens(),) * 2


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"layers": [1, 9]}, r"layers: 9 asked, the model has 3 \(0..2\)"),
        ({"reference": "lexicon"}, "reference: 'lexicon' is not one of"),
        ({"state_rank": 0}, "state_rank: 0 asked"),
        ({"state_rank": 999}, "state_rank: 999 asked"),
        ({"micro_batch": 0}, "micro_batch: 0 asked"),
        ({"threads": -1}, "threads: -1 asked"),
        ({"ablate": "1.9"}, r"ablate: 1\.9 asked, the heads are 0\.\.3"),
        ({"ablate": "1.0", "layers": [0, 2]}, r"ablate: 1\.0 asked, the layers are 0, 2"),
        ({"ablate": "10"}, r"ablate: '10' is not layer\.head"),
    ],
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    model: Model, tmp_path: Path, keywords: dict, message: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RequestError, match=message) as caught:
        sweep(model, read(model, write_documents(20)), out=out, **keywords)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_windows_longer_than_the_context_are_refused(model: Model) -> None:
    texts = read(model, write_documents(20, words=900), window=2 * families.CONTEXT)
    with pytest.raises(RequestError, match=r"window: 256 tokens asked, the model's context holds 128"):
        sweep(model, texts)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RequestError, match="out: cannot write into"):
        sweep(model, read(model, write_documents(20)), out=tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("fit", r"layer 1, head 2, window \d+ of document \d+: NaN"),
        ("reference", r"layer 2: NaN in the states of reference documents \d+ to \d+"),
    ],
)
def test_scores_that_are_not_numbers_stop_the_run_and_name_the_place(
    model: Model, tmp_path: Path, stage: str, message: str
) -> None:
    texts = read(model, write_documents(20))
    surveyed = 1 + math.ceil(texts.windows("reference") / 4)  # the check, then the survey
    sound = surveyed + 2 if stage == "fit" else 2
    calls = 0

    def spoil(_module: object, _inputs: object, scores: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls <= sound:
            return scores
        scores = scores.clone()
        scores[0, 2, 20, 6] = math.nan
        return scores

    handle = model.bridge.blocks[1].attn.hook_attn_scores.register_forward_hook(spoil)
    try:
        with pytest.raises(RunError, match=message):
            sweep(model, texts, reference="zero", state_rank=4, out=tmp_path)
    finally:
        handle.remove()
    assert [path.name for path in tmp_path.iterdir()] == [
        "shards"
    ]  # what was finished is kept for another try
    kept = {path.name for path in (tmp_path / "shards").iterdir()}
    assert {"run.json", "study-check.npz"} <= kept <= {
        "lock", "progress.json", "run.json", "study-check.npz", "study-means", "study-survey.npz", "study-survey",
        "study-fit",
    }  # fmt: skip


@pytest.fixture(scope="module")
def judged(model: Model) -> xarray.DataTree:
    """Twenty documents to fit, so that the swap gate has a block."""
    texts = read(model, write_documents(28))
    assert texts.documents == 20
    return sweep(model, texts, layers=[1], state_rank=4, series=True)


def test_every_null_stands_beside_the_model(judged: xarray.DataTree) -> None:
    verdicts = judged["verdicts"].to_dataset()
    assert set(verdicts["null"].values) == set(NULLS)
    of_null = verdicts[["null_gain", "contrast", "contrast_low", "contrast_high"]]
    for null, rows in (
        ("permuted_queries", ["carry"]),
        ("swapped_documents", ["prosody", "rhythm", "state", "track"]),
    ):
        here = of_null.sel(null=null)
        others = [row for row in verdicts["term"].values if row not in rows]
        assert bool(np.isnan(here["contrast"].sel(term=others)).all())
    carry = verdicts["null_verdict"].sel(null="permuted_queries", term="carry")
    assert not (carry == "IDENTIFIED").any()
    untrained = of_null.sel(null="untrained")
    assert bool((untrained["contrast_low"] <= untrained["contrast_high"]).all())
    assert bool(np.isfinite(untrained["null_gain"]).all())


def test_the_reference_of_a_null_fits_it_as_in_a_study_of_its_own(model: Model) -> None:
    texts, plain = read(model, write_documents(14)), {"layers": [1, 2], "state_rank": 4, "carry": False}
    made = sweep(model, texts, **plain, limits=(), nulls=["untrained"], null_share=1)["reference"]
    alone = sweep(untrained_twin(model), texts, **plain, limits=(), nulls=())["reference"]
    for end in ("", "_low", "_high"):
        null = made[f"null_r2{end}"].sel(null="untrained")
        np.testing.assert_allclose(null.transpose("layer", "head"), alone[f"r2{end}"])
    np.testing.assert_allclose(made["r2_contrast"], made["r2"] - made["null_r2"], atol=1e-12)


def test_the_swap_gate_is_asked_where_a_gain_has_a_bound(judged: xarray.DataTree) -> None:
    verdicts = judged["verdicts"].to_dataset().drop_sel(term="carry")
    gated = verdicts["swap_p"].notnull()
    assert bool((gated == (verdicts["bound"] > 0)).all())
    twentieths = verdicts["swap_p"].values[gated.values] * 20
    np.testing.assert_allclose(twentieths, np.round(twentieths))


def test_the_carry_over_is_a_series_a_ladder_and_a_null(judged: xarray.DataTree) -> None:
    carry = judged["carry"].to_dataset()
    assert carry.sizes["rank"] >= 3
    assert carry["magnitude_series"].dims == ("layer", "head", "document", "query")
    first = int(judged["basis"].attrs["first_query"])
    assert bool(np.isnan(carry["magnitude"].values[..., :first]).all())
    assert bool((carry["magnitude"].values[..., first:] >= 0).all())
    np.testing.assert_allclose(carry["magnitude"], carry["magnitude_series"].mean("document"), rtol=1e-5)
    assert bool((carry["rho_low"] <= carry["rho"]).all())


def test_every_verdict_comes_with_a_reason_and_thresholds_within_reach(judged: xarray.DataTree) -> None:
    table = idi.table(judged, "verdicts")
    assert len(table) == 4 * 5
    assert table["reason"].str.len().gt(5).all()
    assert table["advice"].str.len().gt(20).all()
    thresholds = json.loads(judged["verdicts"].attrs["thresholds"])
    assert thresholds["least_gain"] == 0.005
    absent = table[table["verdict"] == "ABSENT"]
    assert (absent["limit"] <= thresholds["small"]).all()


def test_limited_layers_have_profiles_on_a_finer_grid_of_the_first_documents(model: Model) -> None:
    settings = Settings((0, 1), state_rank=4, carry=False, limits=(1,), ladder_documents=9)
    gathered = gather(model, read(model, write_documents(20)), settings)
    (fine,) = gathered.fine.values()
    np.testing.assert_array_equal(fine.pairs, np.where(np.arange(12) < 9, support_of(WINDOW).pairs, 0))
    made = label_profile(gathered, [0, 1])
    assert made["kept"].sizes == {"layer": 2, "head": model.heads, "width": 3, "tau": 3}
    assert made["kept_fine"].sizes["width_fine"] * made["kept_fine"].sizes["tau_fine"] == 35
    for name in ("kept_fine", "excess_fine", "allowed_fine"):
        assert made[name].sel(layer=0).isnull().all()
        assert made[name].sel(layer=1).notnull().all()
    chosen = made.sel(layer=1).where(made["allowed_fine"].sel(layer=1) == 0)
    assert (chosen["kept_fine"].sum(("width_fine", "tau_fine")) == 1).all()


def test_what_was_not_asked_for_is_not_there(model: Model) -> None:
    plain = sweep(
        model, read(model, write_documents(20)), layers=[1], state_rank=4, carry=False, nulls=(), limits=()
    )
    assert not {"carry", "limits"} & set(plain.children)
    assert "kept_fine" not in plain["profile"]
    assert "null" not in plain["verdicts"].dims
    carry = plain["verdicts"].to_dataset().sel(term="carry")
    assert (carry["verdict"] == "NOT_ESTIMABLE").all()
    assert "no variogram" in str(carry["reason"].values.ravel()[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"nulls": ["random"]}, "nulls: 'random' is not one of untrained, permuted_weights"),
        ({"null_share": 0.0}, "null_share: 0.0 asked"),
        ({"layers": [1], "limits": [2]}, "limits: layer 2 asked, the fitted layers are"),
    ],
)
def test_nulls_and_limits_that_do_not_exist_are_refused(model: Model, wrong: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        sweep(model, read(model, write_documents(20)), state_rank=4, **wrong)


def test_a_vocabulary_of_one_token_ends_in_verdicts_not_in_a_crash(model: Model) -> None:
    texts = read(model, ["z" * (150 + 3 * place) for place in range(14)])
    assert len(texts.token_types()) <= 2  # the token and BOS
    made = sweep(model, texts, layers=[1], state_rank=4, nulls=(), limits=())
    table = idi.table(made, "verdicts")
    assert table["reason"].str.len().gt(5).all()
    assert not (table[table["term"] == "rhythm"]["verdict"] == "IDENTIFIED").any()


def test_few_documents_lose_the_gate_and_the_summary_says_so_once(model: Model) -> None:
    made = sweep(model, read(model, write_documents(14)), layers=[1], state_rank=4, nulls=(), limits=())
    words = idi.summary(made)
    assert made.attrs["documents"] == 6
    assert words.count("no swap gate, so") == 1
    assert words.count("Fewer than 8 documents") == 1
    assert bool(np.isnan(made["verdicts"]["swap_p"].values).all())
