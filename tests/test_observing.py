"""Replies from request to result: the inside read by a sweep's frozen terms, kills and repeats, three ways in."""

import json

import families
import numpy as np
import pytest
import torch
import xarray

from infodyn_interp import RequestError, RunError, read_texts, results, sweep
from infodyn_interp.cli import main
from infodyn_interp.energy.fields import compute_term
from infodyn_interp.energy.gauge import center_rows, support_of
from infodyn_interp.energy.reference import choose_reference
from infodyn_interp.energy.terms import Prosody
from infodyn_interp.figures import save_all
from infodyn_interp.hooks import capture, check
from infodyn_interp.models import open_model, untrained_twin
from infodyn_interp.observe.prompts import Prompt
from infodyn_interp.observe.sampling import NOTHING, Drawing, Replies, draw
from infodyn_interp.observing import inside as reading
from infodyn_interp.observing import trace, trace_texts
from infodyn_interp.report import write_report
from infodyn_interp.sweeping.keeping import FOLDER, Kept
from infodyn_interp.texts import read_pieces

WINDOW, LAYERS = 48, (1, 2)
PROMPTS = ["The train left the station at nine", "In the old house the clock kept its own time"]
SMALL = {"trials": 3, "tokens": 12, "seed": 2}
ASKED = Prompt("", "here", (0, 40, 77, 120, 9, 33, 81))


@pytest.fixture(scope="module")
def model(tiny_tokenizer):
    return open_model(families.build("gpt2"), tokenizer=tiny_tokenizer)


@pytest.fixture(scope="module")
def swept(model, tiny_tokenizer, tmp_path_factory):
    """A small sweep with its twin, and the folder it left."""
    draws = np.random.default_rng(0).integers(3, families.VOCABULARY, (9, 120))
    documents = [tiny_tokenizer.decode(row.tolist()) for row in draws]
    texts = read_texts(documents, tiny_tokenizer, WINDOW, reference_documents=4)
    out = tmp_path_factory.mktemp("study")
    asked = {"layers": LAYERS, "nulls": ("untrained",), "limits": (), "ladder_documents": 8, "seed": 4}
    return sweep(model, texts, out=out, null_share=1.0, **asked), out


@pytest.fixture(scope="module")
def seen(model, swept):
    """A study of replies by that sweep."""
    return trace(model, PROMPTS, inside=swept[1], **SMALL)


def ready(model, kept=None):
    """A model that reads replies to `ASKED`."""
    window = torch.tensor([ASKED.tokens]).repeat(1, 3)[:, :19]
    layers = tuple(range(model.layers)) if kept is None else LAYERS
    prosody = Prosody(read_pieces(model.tokenizer))
    return reading.Inside(model, check(model, window), layers, kept, prosody, "lexical" if kept else "zero")


def test_series_are_the_frozen_terms_of_the_sweep(model, swept):
    result, out = swept
    kept = Kept(out, "study", str(result.attrs["run_digest"]))
    token = draw(model, ASKED, Drawing(3, 12)).token[0]
    found = reading.read_inside(ready(model, kept), ASKED.tokens, token, 2).series
    # the same replies in windows of the sweep's length, filled up behind: only what lies before may count
    windows = torch.full((len(token), WINDOW), 5)
    windows[:, : len(ASKED.tokens)] = torch.tensor(ASKED.tokens)
    windows[:, len(ASKED.tokens) : 19] = torch.from_numpy(np.where(token == NOTHING, 5, token))
    basis, support = result["basis"].to_dataset(), support_of(WINDOW)
    prosody, lexical = Prosody(read_pieces(model.tokenizer)), choose_reference("lexical")
    met = []

    def visit(layer):
        given = basis, layer.index
        fields = {
            term: torch.stack(
                [
                    compute_term(*given, head, term, layer.attention_input, windows, prosody)
                    for head in range(model.heads)
                ],
                1,
            )
            for term in ("rhythm", "state", "track", "nuisance")
        }
        energy = center_rows(lexical(layer, windows, kept.means) - layer.scores, support)
        fields["residual_energy"] = energy - sum(fields.values())
        rms = torch.from_numpy(result["energy"]["rms"].sel(layer=layer.index).values)
        for name in ("rhythm", "state", "track", "residual_energy"):
            size = (fields[name].double().square().sum(-1) * support.inverse_counts).sqrt() / rms[:, None]
            expected = size.square().mean(1).sqrt().numpy()[:, len(ASKED.tokens) : 19]
            early = len(ASKED.tokens) + np.arange(12) < support.first_query
            expected = np.where((token == NOTHING) | early, np.nan, expected)
            np.testing.assert_allclose(found[name][LAYERS.index(layer.index)], expected, rtol=1e-4)
            met.append(name)

    capture(model, windows, visit, layers=LAYERS)
    assert len(met) == 4 * len(LAYERS)
    assert np.isfinite(found["carry"][np.isfinite(found["track"])]).all()
    assert (found["carry"][np.isfinite(found["track"])] > 0).any()


def test_without_a_sweep_the_whole_energy_and_the_steps_are_read(model):
    token = draw(model, ASKED, Drawing(2, 12)).token[0]
    found = reading.read_inside(ready(model), ASKED.tokens, token, 2)
    windows = torch.tensor([[*ASKED.tokens, *row] for row in np.where(token == NOTHING, 5, token)])
    support, there = support_of(19), token != NOTHING

    def visit(layer):
        rows = center_rows(layer.scores.double(), support)
        size = (rows.square().sum(-1) * support.inverse_counts).mean(1).sqrt().numpy()[:, 7:]
        late = there & (np.arange(7, 19) >= support.first_query)
        own = found.series["residual_energy"][layer.index]
        np.testing.assert_allclose(own[late], size[late], rtol=1e-4)
        assert np.isnan(own[~late]).all()
        moved = layer.attention_input.diff(dim=1).norm(dim=-1).numpy()[:, 6:]
        np.testing.assert_allclose(found.series["state_step"][layer.index][there], moved[there], rtol=1e-4)

    logits = capture(model, windows, visit, logits_to_keep=0)
    logs = logits[:, 6:-1].double().log_softmax(-1)
    np.testing.assert_allclose(found.entropy[there], -(logs.exp() * logs).sum(-1).numpy()[there], rtol=1e-5)
    told = logs.gather(-1, windows[:, 7:, None])[..., 0].numpy()
    np.testing.assert_allclose(found.surprisal[there], -told[there], rtol=1e-4)


def test_replies_that_the_clean_pass_foretells_otherwise_stop_the_run(model):
    replies = draw(model, ASKED, Drawing(2, 12))
    one = ready(model)
    read = reading.read_inside(one, ASKED.tokens, replies.token[0], 2)
    reading.require_same_tokens(one, replies, read)
    other = Replies(replies.token, replies.log_probability - 0.1, replies.ended, replies.seed)
    with pytest.raises(RunError, match="another probability than they were drawn with"):
        reading.require_same_tokens(one, other, read)


def test_the_twin_reads_the_same_tokens_by_its_own_terms(model, swept, seen):
    result, out = swept
    output = seen["output"]
    kept = Kept(out, "untrained", str(result.attrs["run_digest"]))
    twin = untrained_twin(model, 4)
    tokens = tuple(model.tokenizer(PROMPTS[0])["input_ids"])
    drawn = draw(model, Prompt(PROMPTS[0], "", tokens), Drawing(3, 12, seed=2)).token[0]
    window = torch.tensor([tokens]).repeat(1, 9)[:, : len(tokens) + 12]
    one = reading.Inside(
        twin, check(twin, window), LAYERS, kept, Prosody(read_pieces(model.tokenizer)), "lexical"
    )
    found = reading.read_inside(one, tokens, drawn, 4).series
    for name, values in found.items():
        own = output[f"{name}_untrained"].isel(temperature=0, prompt=0)
        assert np.nanmean(own) == pytest.approx(np.nanmean(values), rel=0.1)
        assert not np.allclose(own, output[name].isel(temperature=0, prompt=0), equal_nan=True)


def test_a_result_says_what_it_holds(seen, tmp_path):
    output, coupling = seen["output"], seen["coupling"]
    assert output.sizes == {"temperature": 1, "prompt": 2, "trial": 3, "step": 12, "axis": 2, "layer": 2}
    assert {"tension", "kinetic_energy", "speed", "curvature", "surprisal", "carry"} <= set(output.data_vars)
    np.testing.assert_array_equal(output["kinetic_energy"], output["tension"] ** 2 / 2)
    joined = ["".join(row) for row in output["text"].values.reshape(-1, 12).tolist()]
    assert all(joined)
    assert "own unembedding: inside and outside share weights" in seen.attrs["warning"]
    assert set(np.unique(coupling["verdict"].values)) <= {
        "VISIBLE",
        "ONLY_THROUGH_SURPRISAL",
        "NOT_VISIBLE",
        "ALSO_UNTRAINED",
    }
    results.save(seen, tmp_path)
    again = results.open_result(tmp_path)
    xarray.testing.assert_equal(again["output"].to_dataset()["tension"], output["tension"])
    frame = results.table(again, "coupling")
    assert len(frame) == coupling["verdict"].size


def test_a_killed_study_goes_on_and_gives_the_same_bits(model, swept, seen, tmp_path):
    met = []

    def killing(stage, done, total):
        met.append(stage)
        if stage == "replies" and done > total / 2 + 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trace(model, PROMPTS, inside=swept[1], out=tmp_path, progress=killing, **SMALL)
    (first,) = (tmp_path / "replies" / "study").iterdir()
    before = first.stat().st_mtime_ns
    resumed = []

    def watching(stage, done, total):
        resumed.append((stage, done))
        assert first.stat().st_mtime_ns == before

    whole = trace(model, PROMPTS, inside=swept[1], out=tmp_path, progress=watching, **SMALL)
    assert ("replies", 24) not in resumed
    for group in ("output", "coupling"):
        xarray.testing.assert_equal(whole[group].to_dataset(), seen[group].to_dataset())
    assert [path.name for path in tmp_path.iterdir()] == [results.FILE]
    stored = (tmp_path / results.FILE).stat().st_mtime_ns
    again = trace(model, PROMPTS, inside=swept[1], out=tmp_path, **SMALL)
    assert (tmp_path / results.FILE).stat().st_mtime_ns == stored
    xarray.testing.assert_equal(again["output"].to_dataset()["tension"], whole["output"]["tension"])
    with pytest.raises(RequestError, match=r"another run \(seed was 2, now 3\)"):
        trace(model, PROMPTS, inside=swept[1], out=tmp_path, **SMALL | {"seed": 3})


def test_a_sweep_of_other_weights_or_without_frozen_terms_is_refused(model, swept, tiny_tokenizer, tmp_path):
    result, out = swept
    other = open_model(families.build("gpt2", seed=1), tokenizer=tiny_tokenizer)
    with pytest.raises(RequestError, match="is a sweep of other weights"):
        trace(other, PROMPTS, inside=out, **SMALL)
    results.save(result, tmp_path)
    with pytest.raises(RequestError, match="is not there; sweep again"):
        trace(model, PROMPTS, inside=tmp_path, **SMALL)
    (tmp_path / FOLDER).mkdir()
    for file in (out / FOLDER).glob("study*"):
        (tmp_path / FOLDER / file.name).symlink_to(file)
    with pytest.raises(RequestError, match="no null untrained to read the twin by"):
        trace(model, PROMPTS, inside=tmp_path, **SMALL)
    with pytest.raises(RequestError, match=r"\d+ tokens, and 40 of a reply, where a window of the sweep in"):
        trace(model, PROMPTS, inside=out, **SMALL | {"tokens": 40})


REPLIES = {
    "Why?": ["It rains. It pours! Nobody waves.", "Because it is late, and the clock stopped."],
    "When?": [
        "At nine. Or so I think, my friend.",
        "Never again 👩‍👩‍👧 in this house, said he.",
        "Now or never, then.",
    ],
}


def letters(texts):
    return np.array([[text.count("e"), len(text), text.count(" ")] for text in texts], float)


def test_texts_alone_give_the_same_numbers_from_a_file_and_from_a_mapping(tmp_path, monkeypatch, capsys):
    file = tmp_path / "replies.jsonl"
    records = [
        {"prompt": prompt, "completion": reply} for prompt, replies in REPLIES.items() for reply in replies
    ]
    file.write_text("".join(json.dumps(one) + "\n" for one in records))
    given = trace_texts(REPLIES, letters, step="window:2")
    read = trace_texts(file, letters, step="window:2")
    xarray.testing.assert_identical(given["output"].to_dataset(), read["output"].to_dataset())
    monkeypatch.setattr("infodyn_interp.observing.settings.choose_embedder", choose_letters)
    asked = ["observe", "--texts", str(file), "--embedder", "letters", "--step", "window:2"]
    assert main([*asked, "--out", str(tmp_path / "seen")]) == 0
    said = capsys.readouterr().out
    assert "5 replies to 2 prompts, without a model." in said
    typed = results.open_result(tmp_path / "seen")["output"].to_dataset()
    for name in ("tension", "kinetic_energy", "speed", "curvature"):
        np.testing.assert_array_equal(typed[name], given["output"][name])
    assert main(["show", str(tmp_path / "seen")]) == 0
    assert "half-life" in capsys.readouterr().out


def choose_letters(name):
    from infodyn_interp.observe.embedding import Embedder

    return Embedder("letters", letters)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, "texts: no replies"),
        ({"a": ["one reply."]}, "the prompt 'a' has 1 reply, and replies are compared within a prompt"),
        ({"a": ["word", "two words"]}, "reply 1 to 'a' has 1 step of token; a reply of one has no motion"),
    ],
)
def test_texts_that_cannot_be_followed_are_refused(texts, message, tmp_path):
    with pytest.raises(RequestError, match=message):
        trace_texts(texts, letters, out=tmp_path / "seen")
    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"trials": 1}, "trials: 1 asked; replies are compared within a prompt"),
        ({"temperature": 0.0}, "there is nothing to compare"),
        ({"tokens": 1}, "a reply of one token has no motion"),
        ({"alpha": 0.0}, r"alpha 0.0: it lies in \(0, 1\]"),
        ({"step": "word"}, "step: 'word' is not one of"),
        ({"nulls": ("shuffled",)}, "nulls: 'shuffled' is not one of untrained, none"),
        ({"micro_batch": 0}, "micro_batch: 0 asked"),
        ({"embedder": lambda texts: letters(texts) * np.nan}, "NaN or infinity"),
        ({"embedder": lambda texts: letters(texts).astype(int)}, "numbers of type int64"),
        ({"embedder": lambda texts: np.ones((len(texts), len(texts[0])))}, "numbers for one text"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_is_written(model, keywords, message, tmp_path):
    with pytest.raises(RequestError, match=message) as caught:
        trace(model, PROMPTS, out=tmp_path / "seen", **SMALL | keywords)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "observe: give --model and --prompts, or --texts"),
        (["--model", "demo"], "observe: give --model and --prompts, or --texts"),
        (["--model", "demo", "--prompts", "nowhere.txt"], "prompts: nowhere.txt is not there"),
        (["--texts", "a.jsonl", "--model", "demo"], "model: texts come without a model"),
        (["--texts", "a.jsonl"], "embedder: texts alone have no model"),
        (
            ["--model", "demo", "--prompts", __file__, "--temperature", "hot"],
            "temperature: 'hot' is not a list",
        ),
    ],
)
def test_the_command_refuses_in_one_line(words, message, tmp_path, capsys):
    assert main(["observe", *words, "--out", str(tmp_path / "seen")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "seen").exists()


def test_an_embedder_that_fails_later_fails_the_run_and_keeps_the_replies(model, tmp_path):
    def late(texts):
        return letters(texts) * (np.nan if len(texts) > 2 else 1.0)

    with pytest.raises(RunError, match="NaN or infinity for"):
        trace(model, PROMPTS, out=tmp_path, embedder=late, nulls=(), **SMALL)
    assert len(list((tmp_path / "replies" / "study").iterdir())) == 2


def test_replies_that_the_model_ends_at_once_are_left_out(tiny_tokenizer):
    module = families.build("llama")
    module.generation_config.eos_token_id = list(range(3, 150))
    result = trace(
        open_model(module, tokenizer=tiny_tokenizer), PROMPTS, trials=6, tokens=12, nulls=(), seed=1
    )
    output = result["output"]
    short = output["length"] == 0
    assert short.any()
    assert bool((output["tension"].isnull().all("step") == short).all())
    assert bool((output["tokens"].where(~short, 2) >= 2).all())


def test_what_was_observed_is_drawn(model, tmp_path):
    result = trace(model, PROMPTS, temperature=(0.7, 1.0), alphas=True, nulls=(), **SMALL | {"tokens": 16})
    written = save_all(result, tmp_path, format="png")
    names = {path.stem for path in written}
    assert {"trajectory", "temperature_ladder", "alpha_sweep"} <= names
    assert ("coupling_map_0.7" in names) == ("coupling" in result.children)
    assert "no_projection" not in result["output"].attrs
    assert all(path.stat().st_size > 0 for path in written)
    page = write_report(result, tmp_path).read_text()
    assert all(f"Figure: {name.replace('_', ' ')}" in page for name in names)
    assert "half-life 6.6 steps" in page
    assert "Table: output/conditions by" in page


def test_a_short_reply_keeps_no_other_from_its_statistics():
    given = {"Why?": ["One two three.", "It rains and pours, I say.", "Because it is late, and dark."]}
    given["When?"] = ["Now then.", "At nine, or so I think.", "Never again in this house, said he."]
    result = trace_texts(given, letters)
    output, found = result["output"], result["output/conditions"]
    turns = output["curvature"].notnull().sum("step").values.reshape(-1)
    assert sorted(turns)[:2] == [0, 1]
    by_trial = found["by_trial"].sel(statistic="mean").squeeze("temperature")
    np.testing.assert_allclose(
        by_trial.sel(proxy="tension"), output["tension"].mean("step").squeeze("temperature")
    )
    assert int(by_trial.sel(proxy="curvature").isnull().sum()) == 2
    assert found["value"].sel(statistic="mean").notnull().all()
