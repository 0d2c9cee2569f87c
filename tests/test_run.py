"""The run file: what is written is what is run, and what cannot be run is refused in words before a model is sought."""

import inspect
import json
import re
import tomllib

import pytest
from families import build, save_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from infodyn_interp import RequestError, models, results, sweeping, texts
from infodyn_interp.cli import main
from infodyn_interp.energy import ladder
from infodyn_interp.run import WHERE, Run, explain, list_layers, read
from infodyn_interp.texts import reading

DOCUMENTS = 12
NEEDED = 'model = "demo"\ntexts = "corpus.jsonl"\nout = "out"\n'
ASKED = {"model": "demo", "texts": "corpus.jsonl", "out": "out"}


@pytest.fixture
def folder(tmp_path):
    """A folder with texts, and the run file to be written there."""
    words = "the clock in the rain says why, and numbers walk to town; one proof is one step, sure. "
    lines = (json.dumps({"text": f"{number} {words * 4}"}) + "\n" for number in range(DOCUMENTS))
    (tmp_path / "corpus.jsonl").write_text("".join(lines))
    (tmp_path / "plain.txt").write_text(f"{words}\n\n" * 20)
    return tmp_path


@pytest.fixture
def infodyn(capsys):
    """Run the command line in this process: exit code, standard output, lines of standard error."""

    def infodyn(*words):
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return infodyn


# What a run is


@pytest.mark.parametrize("key", Run.model_fields)
def test_every_key_says_what_it_means_and_goes_to_one_function(key):
    field = Run.model_fields[key]
    assert re.fullmatch(r"\S.*[^.]\.", explain(field))
    assert "default" in explain(field) or field.is_required()
    takers = [
        function
        for function in (models.open_model, texts.read_texts, sweeping.sweep)
        if key in inspect.signature(function).parameters
    ]
    assert len(takers) == 1
    default = inspect.signature(takers[0]).parameters[key].default
    if not field.is_required() and None not in (default, field.default):
        assert field.default == default


@pytest.mark.parametrize(
    ("key", "least"),
    [
        ("window", reading.LEAST_WINDOW),
        ("documents", reading.LEAST_FITTED),
        ("ladder_documents", 2 * ladder.SUPER_FOLDS),
    ],
)
def test_ranges_are_those_of_the_work_itself(key, least):
    assert getattr(Run(**ASKED, **{key: least}), key) == least
    with pytest.raises(
        RequestError, match=f"{key}: {least - 1} asked, it takes a whole number, at least {least}"
    ):
        Run(**ASKED, **{key: least - 1})


SOME = {
    "window": st.integers(32, 10**9),
    "documents": st.none() | st.integers(4, 10**9),
    "layers": st.just("all") | st.integers(0, 99) | st.lists(st.integers(0, 99), min_size=1),
    "limits": st.sampled_from(["all", "none", "3:", "::5"]),
    "nulls": st.just("all") | st.lists(st.sampled_from(["untrained", "permuted_queries"])),
    "ablate": st.lists(st.from_regex(r"[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True)),
    "null_share": st.floats(0, 1, exclude_min=True),
    "carry": st.booleans(),
    "field": st.none() | st.text(st.characters(codec="utf-8")),
    "seed": st.integers(0, 2**63 - 1),
    "out": st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(
        lambda name: f"/o/{name}"
    ),
}


@given(keys=st.fixed_dictionaries({}, optional=SOME))
def test_a_written_run_reads_back_as_itself(tmp_path_factory, keys):
    run = Run(**{**ASKED, "texts": "/t.jsonl", "out": "/o"} | keys)
    file = tmp_path_factory.mktemp("written") / "run.toml"
    file.write_text(run.as_toml(), "utf-8")
    again = read(file)
    assert again == run
    assert again.digest == run.digest


def test_a_path_that_is_not_unicode_is_written_all_the_same():
    assert tomllib.loads(Run(**ASKED | {"out": "/o/\udcff"}).as_toml())["out"] == r"/o/\xff"


def test_the_digest_is_of_every_key_but_where_the_result_goes():
    other = {
        "model": "gpt2", "texts": "other", "revision": "main", "trust_remote_code": True, "dtype": "float64",
        "device": "cpu", "field": "body", "split": True, "reference": "own", "carry": False, "series": True,
        "layers": "0", "limits": "none", "nulls": "none", "null_share": 0.5, "ablate": "0.0",
        "precisions": "float64", "threads": 7, "documents": 99, "reference_documents": 99, "out": "elsewhere",
        "documents_per_shard": 5, "engine": "ray", "address": "auto", "micro_batch": 3, "memory": "8GiB",
        "by": "style", "query_tile": 64,
    }  # fmt: skip
    plain = Run(**ASKED | {"model": "llama"})
    digests = {plain.digest}
    for key, field in Run.model_fields.items():
        value = other[key] if key in other else field.default + 1
        changed = Run(**ASKED | {"model": "llama", key: value})
        assert (changed.digest == plain.digest) == (key in WHERE)
        digests.add(changed.digest)
    assert len(digests) == len(Run.model_fields) - len(WHERE) + 1


def test_paths_start_from_the_folder_of_the_file_and_those_of_flags_from_here(folder, monkeypatch):
    (folder / "study").mkdir()
    (folder / "study" / "weights").mkdir()
    file = folder / "study" / "run.toml"
    file.write_text('model = "weights"\ntexts = "../corpus.jsonl"\nout = "out"\n')
    monkeypatch.chdir(folder)
    run = read("study/run.toml")
    assert (run.texts.resolve(), run.out.resolve()) == (folder / "corpus.jsonl", folder / "study" / "out")
    assert run.model == "study/weights"
    assert tomllib.loads(run.as_toml())["model"] == str(folder / "study" / "weights")
    assert read(file, out="out", model="gpt2", texts=None).out.resolve() == folder / "out"
    file.write_text('model = "gpt2"\ntexts = "-"\nout = "/out"\n')
    run = read(file)
    assert (run.model, str(run.texts), str(run.out)) == ("gpt2", "-", "/out")
    assert tomllib.loads(run.as_toml())["texts"] == "-"


@pytest.mark.parametrize(
    "layers", ["", "a", "1,,2", "-1", "0:9:0", "0:1:2:3", ":", "1.5", "none", [], [True], 1.5]
)
def test_layers_that_cannot_be_read_are_refused(layers):
    with pytest.raises(
        RequestError, match=r"layers: .* is not a list such as 0,10,20 or a range such as 0:30:5"
    ):
        Run(**ASKED, layers=layers)


@pytest.mark.parametrize(
    ("layers", "listed"),
    [
        ("all", list(range(30))),
        ("none", []),
        ("0,10,20", [0, 10, 20]),
        ("0:30:5", [0, 5, 10, 15, 20, 25]),
        ("3:5, 1,3", [1, 3, 4]),
        ("28:", [28, 29]),
        ("::10", [0, 10, 20]),
        (":2", [0, 1]),
        ("35", [35]),
        ("25:999999999:5", [25, 30]),
    ],
)
def test_layers_are_lists_and_ranges_as_python_slices_them(layers, listed):
    assert list_layers(layers, 30) == listed


def test_a_range_that_holds_no_layer_is_refused():
    with pytest.raises(RequestError, match=r'"40:" names none of the model\'s 30'):
        list_layers("40:", 30)


# What is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("windw = 64", r"windw: there is no such key; the nearest is window"),
        ("state-rank = 4", r"state-rank: there is no such key; the nearest is state_rank"),
        ('"a\\nb" = 4', r'"a\\nb": there is no such key'),
        ("[measures]\nlags = 12", r"measures\.lags: there is no such key; the nearest is layers"),
        ("[calibrate]\nruns = 12", r"calibrate: there is no such key"),
        ("window = 8", r"window: 8 asked, it takes a whole number, at least 32"),
        ('window = "many"', r'window: "many" asked, it takes a whole number'),
        ("window = true", r"window: true asked, it takes a whole number"),
        ("window = 64.5", r"window: 64\.5 asked"),
        ("window = 1979-05-27", r'window: "1979-05-27" asked'),
        ("window.tokens = 64", r'window: \{"tokens": 64\} asked'),
        ("folds = 1", r"folds: 1 asked, it takes a whole number, at least 2"),
        ("documents = 3", r"documents: 3 asked, it takes a whole number, at least 4"),
        ("seed = -1", r"seed: -1 asked, it takes a whole number, at least 0"),
        ("seed = 1e3", r"seed: 1000\.0 asked"),
        ("micro_batch = 0", r"micro_batch: 0 asked"),
        ('memory = "plenty"', r'memory: "plenty" is not a size such as 8GiB'),
        ("memory = 8", r"memory: 8 asked, it takes text"),
        ("null_share = 0", r"null_share: 0 asked, it takes a number, above 0 and at most 1"),
        ("null_share = nan", r"null_share: NaN asked"),
        ('reference = "lexcal"', r"reference: \"lexcal\" asked, it takes one of lexical, position, zero, own"),
        ("dtype = 32", r"dtype: 32 asked, it takes one of float32"),
        ('carry = "no"', r'carry: "no" asked, it takes true or false'),
        ('layers = "first"', r'layers: "first" is not a list such as 0,10,20'),
        ("layers = [0, -1]", r'layers: "0,-1" is not a list'),
        ("limits = [0.5]", r"limits: \[0\.5\] is not a list"),
        ('nulls = ["untraind"]', r"nulls: 'untraind' is not one of untrained"),
        ("nulls = 3", r"nulls: 3 asked, it takes a list of names"),
        ('ablate = ["ten"]', r'ablate: "ten" is not layer\.head'),
        ("layers = [0, 2]\nlimits = [1]", r"limits: layer 1 asked, the fitted layers are 0,2"),
        ("series = true\ncarry = false", r"series: true asked, but carry is false"),
        ('revision = "main"', r"revision: demo has none"),
        ("split = true", r"split is for plain text, and .*corpus\.jsonl has fields"),
        ("window = 64\nwindow = 32", r"Cannot overwrite a value \(at line 5, column 12\); it is not TOML"),
        ("window = ", r"Invalid value \(at line 4, column 10\); it is not TOML"),
        ('window = "64', r"\(at line 4, column 13\); it is not TOML"),
        (f"seed = {'9' * 5000}", r"it is not TOML"),
        ("x = " + "[" * 5000, r"it is not TOML"),
    ],
)  # fmt: skip
def test_a_bad_run_file_is_one_line_and_exit_2_before_a_model_is_sought(
    folder, infodyn, monkeypatch, text, message
):
    monkeypatch.setattr(models, "open_model", lambda *_, **__: pytest.fail("a model was sought"))
    (folder / "run.toml").write_text(NEEDED + text)
    for more in ([], ["--dry"]):
        code, out, err = infodyn("run", folder / "run.toml", *more)
        assert (code, out, len(err)) == (2, "", 1), (code, out, err)
        assert re.search(message, err[0])
        assert len(err[0]) < 600
    assert not (folder / "out").exists()


@pytest.mark.parametrize("key", ["model", "texts", "out"])
@pytest.mark.parametrize(
    ("line", "message"),
    [("", r"{}: missing; "), ('{} = ""', r'{}: "" asked, it takes '), ("{} = 3", r"{}: 3 asked, it takes ")],
)
def test_what_has_no_default_must_be_there_and_hold_something(folder, infodyn, key, line, message):
    kept = [one for one in NEEDED.splitlines() if not one.startswith(key)]
    (folder / "run.toml").write_text("\n".join([*kept, line.format(key)]))
    code, out, err = infodyn("run", folder / "run.toml", "--dry")
    assert (code, out, len(err)) == (2, "", 1)
    assert f"run.toml: {message.format(key)}" in err[0]


def test_a_file_that_cannot_be_read_is_one_line_and_exit_2(folder, infodyn):
    (folder / "latin.toml").write_bytes(NEEDED.encode() + 'device = "c\xfcda"'.encode("latin-1"))
    for name, message in (
        ("none.toml", "No such file"),
        (".", "Is a directory"),
        ("latin.toml", "not UTF-8 at line 4"),
    ):
        code, out, err = infodyn("run", folder / name)
        assert (code, out, len(err)) == (2, "", 1)
        assert message in err[0]


def test_texts_and_out_are_looked_at_before_a_model_is_sought(folder, infodyn):
    (folder / "run.toml").write_text(NEEDED.replace("corpus", "corpse"))
    code, _, err = infodyn("run", folder / "run.toml", "--dry")
    assert (code, len(err)) == (2, 1)
    assert re.search(r"corpse\.jsonl is not there: did you mean .*corpus\.jsonl", err[0])
    (folder / "run.toml").write_text(NEEDED.replace('"out"', '"plain.txt"'))
    code, _, err = infodyn("run", folder / "run.toml", "--dry")
    assert (code, len(err)) == (2, 1)
    assert "plain.txt is a file, so" in err[0]


# What is run


def test_a_flag_takes_the_place_of_its_key_and_is_blamed_by_its_own_name(folder, infodyn):
    (folder / "run.toml").write_text(NEEDED + "window = 64\nsplit = true\nlayers = [0, 1]\n")
    code, out, err = infodyn(
        "run", folder / "run.toml", "--dry", "--window", "96", "--no-split", "--nulls", "none"
    )
    assert (code, err) == (0, [])
    resolved = tomllib.loads(out)
    assert (resolved["window"], resolved["split"], resolved["layers"], resolved["nulls"]) == (
        96,
        False,
        "0,1",
        [],
    )
    assert resolved["texts"] == str(folder / "corpus.jsonl")
    assert set(resolved) | set(re.findall(r"^# (\w+): ", out, re.MULTILINE)) == set(Run.model_fields)
    _, _, err = infodyn("run", folder / "run.toml", "--window", "9")
    assert err == ["infodyn: window: 9 asked, it takes a whole number, at least 32"]


def test_a_run_file_and_the_same_flags_are_one_run_and_its_result_says_how_to_run_it_again(folder, infodyn):
    build("llama").save_pretrained(folder / "tiny")
    save_tokenizer(folder / "tiny")
    keys = {"window": 48, "state_rank": 4, "layers": "0,2", "documents": 6, "threads": 1, "limits": "none"}
    asked = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    (folder / "run.toml").write_text(
        NEEDED.replace("demo", "tiny") + asked + 'nulls = "none"\ncarry = false\n'
    )
    code, printed, err = infodyn("run", folder / "run.toml")
    assert code == 0, err
    written = (folder / "out" / "result.nc").stat().st_mtime_ns
    flags = [word for key, value in keys.items() for word in (f"--{key.replace('_', '-')}", value)]
    given = ["--model", folder / "tiny", "--texts", folder / "corpus.jsonl", "--out", folder / "out"]
    code, again, err = infodyn("sweep", *given, *flags, "--nulls", "none", "--no-carry")
    assert (code, again) == (0, printed)
    assert "was already there" in err[-1]
    assert (folder / "out" / "result.nc").stat().st_mtime_ns == written

    about = results.open_result(folder / "out").attrs
    stored = json.loads(about["run"])
    same = Run(
        out=folder / "twice", **{key: value for key, value in stored.items() if key in Run.model_fields}
    )
    (folder / "same.toml").write_text(same.as_toml())
    code, _, err = infodyn("run", folder / "same.toml")
    assert code == 0, err
    assert results.open_result(folder / "twice").attrs["run_digest"] == about["run_digest"]

    code, out, err = infodyn("run", folder / "run.toml", "--windows-per-document", "7", "--dry")
    assert (code, out) == (2, "")
    assert "another run (windows_per_document was 8, now 7)" in err[0]
