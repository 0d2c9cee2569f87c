"""The same documents in any file give the same windows; a file that cannot give them is named in one line."""

import gc
import gzip
import io
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import PLAIN, everything, json_lines, refusal, same, spell_corpus, spell_document
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from infodyn_interp.errors import RequestError, RunError
from infodyn_interp.texts import read_texts
from infodyn_interp.texts.windows import Batch

TEXTS = [f"{text}\nzwei “ö” \u2028" for text in spell_corpus(11)]
STYLES = ["late", "early", "late", "early", "middle", "late", "late", "early", "middle", "early", "late"]


def _zst(data):
    return pa.compress(data, codec="zstd", asbytes=True)


def _table(texts=TEXTS, **more):
    return pa.table({"id": np.arange(len(texts)), "text": texts} | more)


def _write_arrow(file, table, rows=None, kind=pa.ipc.new_stream, **options):
    with pa.OSFile(str(file), "wb") as sink, kind(sink, table.schema, **options) as writer:
        writer.write_table(table, rows)


def _save_dataset(folder, texts=TEXTS, shards=1, **more):
    saved = datasets.Dataset.from_dict({"text": texts} | more)
    datasets.disable_progress_bars()
    saved.save_to_disk(folder, num_shards=shards)


def _mix(folder):
    """One document twice, each of the others once, in a file of every kind, at two depths."""
    deeper = folder / "deeper"
    deeper.mkdir()
    (folder / "a.jsonl").write_bytes(json_lines({"text": text} for text in TEXTS[:2]))
    (deeper / "b.jsonl.gz").write_bytes(gzip.compress(json_lines({"text": text} for text in TEXTS[2:3])))
    (folder / "c.json.zst").write_bytes(_zst(json_lines({"text": text} for text in TEXTS[3:4])))
    (folder / "d.TXT").write_text(TEXTS[4])
    (deeper / "e.txt.gz").write_bytes(gzip.compress(TEXTS[5].encode()))
    (folder / "f.md.zst").write_bytes(_zst(b"\xef\xbb\xbf" + TEXTS[6].encode()))
    pq.write_table(_table(TEXTS[7:9]), deeper / "g.parquet")
    _write_arrow(folder / "h.arrow", _table(TEXTS[9:10]))
    _save_dataset(deeper / "saved", TEXTS[10:])
    (folder / ".hidden.parquet").write_bytes(b"no table")
    (folder / "picture.png.gz").write_bytes(b"no archive")


def _written(folder, how):
    """Write TEXTS in one of the formats; return what to pass to read_texts."""
    lines = json_lines({"id": number, "text": text} for number, text in enumerate(TEXTS))
    paragraphs = "\n\n".join(TEXTS).encode()
    file, more = folder / how, {}
    if how == "a.jsonl.gz":
        file.write_bytes(gzip.compress(lines))
    elif how == "members.jsonl.gz":
        file.write_bytes(gzip.compress(lines[:700]) + gzip.compress(lines[700:]))
    elif how == "frames.ndjson.zst":
        file.write_bytes(_zst(lines[:700]) + _zst(lines[700:]))
    elif how in ("a.txt.gz", "a.gz"):
        file.write_bytes(gzip.compress(paragraphs))
        more = {"split": True}
    elif how == "a.txt.zst":
        file.write_bytes(_zst(paragraphs))
        more = {"split": True}
    elif how == "a.parquet":
        pq.write_table(_table(), file, row_group_size=4)
    elif how == "halves.parquet":
        halves = {"prompt": [text[:50] for text in TEXTS], "completion": [text[50:] for text in TEXTS]}
        pq.write_table(pa.table(halves), file)
    elif how == "kinds.parquet":
        encoded = pa.array(TEXTS).dictionary_encode()
        pq.write_table(_table(["other"] * 11, body=encoded), file)
        more = {"field": "body"}
    elif how == "stream.arrow":
        _write_arrow(file, _table(large=pa.array(TEXTS, pa.large_string())), rows=3)
        more = {"field": "large"}
    elif how == "file.arrow":
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        _write_arrow(file, _table(), rows=3, kind=pa.ipc.new_file, options=options)
    elif how == "dataset":
        _save_dataset(file, shards=3)
        _write_arrow(file / "cache-12ab.arrow", _table(spell_corpus(3)))
    elif how == "splits":
        parts = {"train": TEXTS[:7], "test": TEXTS[7:]}
        splits = {name: datasets.Dataset.from_dict({"text": texts}) for name, texts in parts.items()}
        datasets.DatasetDict(splits).save_to_disk(file)
    elif how == "cached":
        _save_dataset(file, shards=2)
        (file / "state.json").unlink()
        _write_arrow(file / "cache-12ab.arrow", _table(spell_corpus(3)))
    elif how == "json stream":
        return io.BytesIO(b"\xef\xbb\xbf \n" + lines), {}
    elif how == "text stream":
        return io.BytesIO(b"\n" + paragraphs), {}
    elif how == "unpacked stream":
        return gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(lines))), {}
    elif how == "mixed":
        file.mkdir()
        _mix(file)
    return file, more


FORMATS = [
    "a.jsonl.gz",
    "members.jsonl.gz",
    "frames.ndjson.zst",
    "a.txt.gz",
    "a.gz",
    "a.txt.zst",
    "a.parquet",
    "halves.parquet",
    "kinds.parquet",
    "stream.arrow",
    "file.arrow",
    "dataset",
    "splits",
    "cached",
    "json stream",
    "text stream",
    "unpacked stream",
    "mixed",
]


@pytest.mark.parametrize("how", FORMATS)
def test_the_file_that_holds_the_documents_changes_no_window(tmp_path, how):
    source, more = _written(tmp_path, how)
    texts, listed = read_texts(source, PLAIN, 32, **more), read_texts(TEXTS, PLAIN, 32)
    assert texts.census == listed.census
    assert texts.digest == listed.digest
    assert same(texts, listed)


def test_a_document_is_known_again_in_a_file_of_another_kind(tmp_path):
    _mix(tmp_path)
    pq.write_table(_table(), tmp_path / "again.parquet")
    texts, listed = read_texts(tmp_path, PLAIN, 32), read_texts(TEXTS, PLAIN, 32)
    assert texts.census.duplicates == len(TEXTS)
    assert same(texts, listed)


def test_files_of_a_folder_are_read_in_the_order_of_their_names(tmp_path):
    for name in ("b.parquet", "a.parquet", "c/a.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(_table([f"{text} {name}" for text in TEXTS], style=[name] * 11), tmp_path / name)
    pq.write_table(_table(TEXTS[:1] * 2, style=["first", "second"]), tmp_path / "0.parquet")
    pq.write_table(_table(TEXTS, style=["again"] * 11), tmp_path / "d.parquet")
    texts = read_texts(tmp_path, PLAIN, 32, by="style")
    assert "first" in texts.groups
    assert "second" not in texts.groups


# --- streams and copies ----------------------------------------------------------------------------------


def _pipe(monkeypatch, data, terminal=False):
    stdin = SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: terminal)
    monkeypatch.setattr(sys, "stdin", stdin)


def test_standard_input_is_read_again_from_the_folder_it_was_kept_in(tmp_path, monkeypatch):
    folder, listed = tmp_path / "out" / "texts", read_texts(TEXTS, PLAIN, 32)
    for data in (json_lines({"text": text} for text in TEXTS), "\n\n".join(TEXTS).encode()):
        _pipe(monkeypatch, data)
        assert same(read_texts("-", PLAIN, 32, spool=folder), listed)
        assert len(list(folder.iterdir())) == 1
        for terminal in (False, True):
            _pipe(monkeypatch, b"" if not terminal else b"typed", terminal)
            again = read_texts("-", PLAIN, 32, spool=folder)
            assert again.digest == listed.digest
            assert same(again, listed)


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_an_empty_standard_input_is_refused(tmp_path, monkeypatch, data):
    _pipe(monkeypatch, data)
    with pytest.raises(RequestError, match="standard input is empty: give JSONL, or documents") as error:
        read_texts("-", PLAIN, 32, spool=tmp_path)
    assert refusal(error)
    assert not list(tmp_path.iterdir())


def test_a_line_of_a_stream_is_named_by_its_number(tmp_path):
    with pytest.raises(RequestError, match="the stream line 2 has no field 'text'") as error:
        read_texts(io.BytesIO(b'{"text": "a"}\n{"body": "b"}\n'), PLAIN, 32, spool=tmp_path)
    assert refusal(error)
    with pytest.raises(RequestError, match="the stream gives str, not bytes: open it in binary mode"):
        read_texts(io.StringIO("words"), PLAIN, 32, spool=tmp_path)


def test_copies_are_gone_with_the_texts(tmp_path):
    source, _ = _written(tmp_path, "a.parquet")
    spool = tmp_path / "spool"
    texts = read_texts(source, PLAIN, 32, spool=spool)
    elsewhere = pickle.dumps(texts)
    source.unlink()
    part = texts.part(folds=4)
    copy = pickle.loads(elsewhere)
    assert same(copy, texts)
    del texts, copy
    gc.collect()
    assert len(everything(part, "fitted")[0])
    assert len(list(spool.iterdir())) == 1
    del part
    gc.collect()
    assert not list(spool.iterdir())
    with pytest.raises(RunError, match=r"a\.parquet row \d+ changed since it was counted") as error:
        everything(pickle.loads(elsewhere), "fitted")
    assert refusal(error)


def test_a_folder_that_takes_no_copy_is_named(tmp_path):
    source, _ = _written(tmp_path, "a.parquet")
    for texts in (source, io.BytesIO(b"words")):
        with pytest.raises(RequestError, match=r"a\.parquet.*: (File exists|Not a directory)") as error:
            read_texts(texts, PLAIN, 32, spool=source)
        assert refusal(error)


# --- groups ----------------------------------------------------------------------------------------------


def _grouped(folder, how, values=STYLES):
    file = folder / how
    records = [{"text": text, "style": value} for text, value in zip(TEXTS, values, strict=True)]
    if how == "a.jsonl":
        file.write_bytes(json_lines(records))
    elif how == "a.jsonl.gz":
        file.write_bytes(gzip.compress(json_lines(records)))
    elif how == "a.parquet":
        pq.write_table(_table(style=pa.array(values).dictionary_encode()), file)
    elif how == "dataset":
        _save_dataset(file, style=values)
    else:
        for number, (text, value) in enumerate(zip(TEXTS, values, strict=True)):
            (file / value).mkdir(parents=True, exist_ok=True)
            (file / value / f"{number}.txt").write_text(text)
    return file


@pytest.mark.parametrize("how", ["a.jsonl", "a.jsonl.gz", "a.parquet", "dataset", "folders"])
def test_each_window_knows_the_group_of_its_document(tmp_path, how):
    texts = read_texts(_grouped(tmp_path, how), PLAIN, 32, by="style", documents=8)
    assert texts.groups == ("early", "late", "middle")
    first_words = {text.split()[0]: style for text, style in zip(TEXTS, STYLES, strict=True)}
    for some in (texts, texts.shuffled(1), texts.part(folds=3, reference_documents=1)):
        assert some.groups == texts.groups
        for role in ("fitted", "reference"):
            for batch, plain in zip(some.batches(3, role), some.batches(3, role), strict=True):
                assert batch.group.dtype == np.int64
                assert np.array_equal(batch.group, plain.group)
    for role in ("fitted", "reference"):
        for batch in texts.batches(5, role):
            first = batch.position == 0
            words = PLAIN.convert_ids_to_tokens(batch.tokens[first, 0].tolist())
            assert [texts.groups[group] for group in batch.group[first]] == [first_words[w] for w in words]
    assert len(set(first_words)) == len(TEXTS)
    one = texts.one_window(3, 1)
    (batch,) = texts.batches(99, documents=[3])
    assert one.group.tolist() == batch.group[1:2].tolist()


def test_groups_are_part_of_what_the_texts_are(tmp_path):
    (tmp_path / "jsonl").mkdir()
    (tmp_path / "table").mkdir()
    file = _grouped(tmp_path / "jsonl", "a.jsonl")
    grouped, plain = read_texts(file, PLAIN, 32, by="style"), read_texts(file, PLAIN, 32)
    assert plain.groups == ()
    assert not any(batch.group.any() for batch in plain.batches(4))
    assert plain.digest == read_texts(TEXTS, PLAIN, 32).digest != grouped.digest
    table = read_texts(_grouped(tmp_path / "table", "a.parquet"), PLAIN, 32, by="style")
    assert table.digest == grouped.digest
    renamed = read_texts(_grouped(tmp_path, "a.jsonl", ["later", *STYLES[1:]]), PLAIN, 32, by="style")
    assert renamed.digest != grouped.digest
    file.write_bytes(b"".join(sorted(file.read_bytes().splitlines(keepends=True))))
    assert read_texts(file, PLAIN, 32, by="style").digest == grouped.digest


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([3, 10, 3] + [3] * 8, ("10", "3")),
        ([True, False, True] + [True] * 8, ("false", "true")),
        ([0.5] * 10 + [2.0], ("0.5", "2.0")),
    ],
)
@pytest.mark.parametrize("how", ["a.jsonl", "a.parquet"])
def test_numbers_and_bools_name_groups(tmp_path, how, values, labels):
    assert read_texts(_grouped(tmp_path, how, values), PLAIN, 32, by="style").groups == labels


def test_only_groups_of_documents_that_are_used_are_named(tmp_path):
    file = tmp_path / "a.jsonl"
    records = [{"text": text, "style": "long"} for text in TEXTS] + [{"text": "w1 w2", "style": "short"}]
    file.write_bytes(json_lines([{"text": "\n", "style": "blank"}, *records[::-1]]))
    texts = read_texts(file, PLAIN, 32, by="style")
    assert texts.groups == ("long",)
    assert not any(batch.group.any() for batch in texts.batches(4))


def test_a_batch_made_by_hand_is_of_one_group():
    batch = next(read_texts(TEXTS, PLAIN, 32).batches(4))
    made = Batch(batch.tokens, batch.document, batch.position, batch.fold)
    assert made.group.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("how", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize(
    ("values", "by", "message"),
    [
        (STYLES, "stile", r"has no field 'stile'; its fields are .*'text', 'style': name one of them"),
        ([["a"]] * 11, "style", "field 'style' is of type list.*, not a string, number or bool"),
        ([None] * 11, "style", "field 'style' is of type (NoneType|null), not a string"),
        ([*STYLES[:4], None, *STYLES[5:]], "style", r"(line 5|row 4): field 'style' is of type NoneType"),
        (["two\nlines"] * 11, "style", "field 'style' is no label of one line"),
        (STYLES, "text", "field 'text' is no label of one line and at most 80 letters"),
    ],
)
def test_a_field_that_cannot_group_is_refused(tmp_path, how, values, by, message):
    file = tmp_path / how
    if how == "a.parquet":
        pq.write_table(_table(style=values), file)
    else:
        records = zip(TEXTS, values, strict=True)
        file.write_bytes(json_lines({"text": text, "style": value} for text, value in records))
    with pytest.raises(RequestError, match=message) as error:
        read_texts(file, PLAIN, 32, by=by)
    assert refusal(error)


def test_too_many_groups_are_refused_where_they_become_too_many(tmp_path):
    file, corpus = tmp_path / "a.jsonl", spell_corpus(70)
    for groups in (64, 65):
        numbered = enumerate(corpus)
        file.write_bytes(json_lines({"text": text, "style": n % groups} for n, text in numbered))
        if groups == 64:
            assert len(read_texts(file, PLAIN, 32, by="style").groups) == 64
    with pytest.raises(
        RequestError, match=r"by: .*a\.jsonl line 65 begins group 65, and at most 64"
    ) as error:
        read_texts(file, PLAIN, 32, by="style")
    assert refusal(error)


def test_a_request_for_groups_that_would_do_nothing_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "b.txt").write_text("words")
    with pytest.raises(RequestError, match="by is for files, and each string of a list"):
        read_texts(TEXTS, PLAIN, 32, by="style")
    for source in (tmp_path, tmp_path / "a.txt", io.BytesIO(b"words")):
        with pytest.raises(RequestError, match="by is for JSONL, tables and text files in several") as error:
            read_texts(source, PLAIN, 32, by="style")
        assert refusal(error)


# --- size ------------------------------------------------------------------------------------------------


# In a process of its own: shapes are not checked there, and checks at every call take most of the time.
_PEAKS = """
import sys, tracemalloc
from corpora import PLAIN
from infodyn_interp.texts import read_texts
for file in sys.argv[1:]:
    tracemalloc.start()
    texts = read_texts(file, PLAIN, 32, documents=100, reference_documents=100)
    windows = sum(len(batch.tokens) for batch in texts.batches(8))
    print(texts.census.documents_read, windows, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
"""


def test_memory_does_not_grow_with_the_documents_of_a_packed_file(tmp_path):
    for count in (2_000, 20_000):
        corpus = [f"{number} {'long' * 80} {'w1 ' * 30}" for number in range(count)]
        pq.write_table(_table(corpus), tmp_path / f"{count}.parquet")
        (tmp_path / f"{count}.jsonl.gz").write_bytes(gzip.compress(json_lines({"text": t} for t in corpus)))
    ended = subprocess.run(
        [sys.executable, "-c", _PEAKS, "2000.parquet", "20000.parquet", "20000.jsonl.gz"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    few, *many = ([int(number) for number in line.split()] for line in ended.stdout.splitlines())
    assert [read for read, _, _ in (few, *many)] == [2_000, 20_000, 20_000]
    assert {windows for _, windows, _ in (few, *many)} == {100}
    # 18,000 documents more are 7 MiB of text. The row of each, 57 bytes, is there four times when rows are ranked.
    for _, _, peak in many:
        assert peak - few[2] < 18_000 * 57 * 4 + 2**18


@pytest.mark.parametrize("how", [".jsonl.gz", ".parquet", ".txt.zst", "stream"])
def test_one_line_of_a_hundred_thousand_tokens_is_one_document(tmp_path, how):
    corpus = [spell_document(100_000), *spell_corpus(5, 400)]
    file, lines = tmp_path / f"a{how}", json_lines({"text": text} for text in corpus)
    if how == ".jsonl.gz":
        file.write_bytes(gzip.compress(lines))
    elif how == ".parquet":
        pq.write_table(_table(corpus), file)
    elif how == ".txt.zst":
        file.write_bytes(_zst("\n\n".join(corpus).encode()))
    source, more = (io.BytesIO(lines), {}) if how == "stream" else (file, {"split": how == ".txt.zst"})
    texts, listed = (
        read_texts(some, PLAIN, 256, windows_per_document=400, reference_windows_per_document=400, **extra)
        for some, extra in ((source, more), (corpus, {}))
    )
    assert texts.census.tokens_read == sum(len(text.split()) for text in corpus)
    assert max(_windows_of_each(texts)) == 100_000 // 256
    assert same(texts, listed)


def _windows_of_each(texts):
    return [np.bincount(everything(texts, role)[1]).max() for role in ("fitted", "reference")]


def test_ids_beyond_sixteen_bits_come_through_whole(tmp_path):
    size = 2**16 + 6 * 40
    backend = Tokenizer(models.WordLevel({f"w{n}": n for n in range(size)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0")
    numbers = np.arange(size - 6 * 40, size).reshape(6, 40)
    file = tmp_path / "a.parquet"
    pq.write_table(_table([" ".join(f"w{n}" for n in row) for row in numbers]), file)
    texts = read_texts(file, tokenizer, 40)
    found = np.concatenate([everything(texts, role)[0] for role in ("fitted", "reference")])
    assert np.array_equal(np.sort(found.ravel()), numbers.ravel())
    assert found.min() == 2**16


# --- files that are wrong --------------------------------------------------------------------------------


def _bad(folder, how):
    lines = json_lines({"text": text} for text in TEXTS)
    file = folder / how
    if how.endswith(".parquet"):
        tables = {
            "number.parquet": pa.table({"text": [1, 2]}),
            "bytes.parquet": pa.table({"text": [b"a"]}),
            "null.parquet": pa.table({"text": ["a", None]}),
            "other.parquet": pa.table({"id": [1], "body": ["a"]}),
            "none.parquet": pa.table({"text": pa.array([], pa.string())}),
            "latin.parquet": pa.table({"text": pa.array([b"a", b"\xe4"]).view(pa.string())}),
            "twice.parquet": pa.table([pa.array(["a"]), pa.array(["b"])], ["text", "text"]),
        }
        pq.write_table(tables.get(how, _table()), file)
        data = file.read_bytes()
        if how == "cut.parquet":
            file.write_bytes(data[:-9])
        elif how == "words.parquet":
            file.write_bytes(b"words, words")
    elif how.endswith(".gz"):
        data = gzip.compress(lines)
        at = len(data) // 2
        changed = {
            "cut.jsonl.gz": data[:-9],
            "tail.jsonl.gz": data + b"tail",
            "words.jsonl.gz": lines,
            "flip.jsonl.gz": data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :],
        }
        file.write_bytes(changed[how])
    elif how.endswith(".zst"):
        file.write_bytes(lines if how == "words.txt.zst" else _zst(lines)[:-9])
    elif how.endswith(".arrow"):
        _write_arrow(file, _table())
        data = file.read_bytes()
        file.write_bytes({"cut.arrow": data[: len(data) // 2], "words.arrow": b"words " * 20}[how])
    else:
        _save_dataset(file)
        (shard,) = file.glob("*.arrow")
        shard.unlink()
        if how == "no state":
            (file / "state.json").unlink()
        elif how == "bad state":
            (file / "state.json").write_text("[]")
    return file


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "cut.jsonl.gz",
            r"cut\.jsonl\.gz cannot be read: Truncated compressed stream: fetch or write it again",
        ),
        ("tail.jsonl.gz", r"tail\.jsonl\.gz cannot be read: "),
        ("words.jsonl.gz", r"words\.jsonl\.gz cannot be read: .*incorrect header check"),
        ("flip.jsonl.gz", r"flip\.jsonl\.gz cannot be read: "),
        ("cut.jsonl.zst", r"cut\.jsonl\.zst cannot be read: Truncated compressed stream"),
        ("words.txt.zst", r"words\.txt\.zst cannot be read: "),
        ("cut.parquet", r"cut\.parquet cannot be read: "),
        ("words.parquet", r"words\.parquet cannot be read: "),
        ("cut.arrow", r"cut\.arrow cannot be read: "),
        ("words.arrow", r"words\.arrow cannot be read: "),
        (
            "number.parquet",
            r"number\.parquet: field 'text' is of type int64, not a string: name another field",
        ),
        ("bytes.parquet", r"bytes\.parquet: field 'text' is of type binary, not a string"),
        ("null.parquet", r"null\.parquet row 1: field 'text' is of type NoneType, not a string"),
        (
            "other.parquet",
            r"other\.parquet has no field 'text', nor .*; its fields are 'id', 'body': name one",
        ),
        ("none.parquet", r"none\.parquet holds no text: give documents with words in them"),
        ("latin.parquet", r"latin\.parquet cannot be read: .*utf-8"),
        ("twice.parquet", r"twice\.parquet has 2 columns 'text': rename all but one"),
        ("no data", r"data-00000-of-00001\.arrow is not there, though state\.json beside it names it"),
        ("no state", "no state is a saved dataset without data"),
        ("bad state", r"state\.json is not the state of a saved dataset"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path, how, message):
    with pytest.raises(RequestError, match=message) as error:
        read_texts(_bad(tmp_path, how), PLAIN, 32, spool=tmp_path / "spool")
    assert len(refusal(error)) < 500


def test_a_packed_file_that_is_gone_is_named(tmp_path):
    (tmp_path / "gone.arrow").symlink_to(tmp_path / "nothing")
    with pytest.raises(RequestError, match="cannot be read: No such file") as error:
        read_texts(tmp_path, PLAIN, 32)
    assert refusal(error)


@pytest.mark.parametrize("how", ["a.parquet", "a.jsonl.gz"])
def test_a_packed_file_may_change_while_its_texts_are_in_use(tmp_path, how):
    source, _ = _written(tmp_path, how)
    texts = read_texts(source, PLAIN, 32)
    before = everything(texts, "fitted")
    source.write_bytes(b"other")
    assert all(map(np.array_equal, before, everything(texts, "fitted")))


def test_a_disk_that_is_full_is_not_blamed_on_the_file(tmp_path, monkeypatch):
    source, _ = _written(tmp_path, "a.parquet")
    spool = tmp_path / "spool"
    made = read_texts(source, PLAIN, 32, spool=spool)
    (scratch,) = spool.iterdir()
    shutil.rmtree(scratch)
    with pytest.raises(RequestError, match=r"a\.parquet cannot be unpacked into .*: No such file") as error:
        list(made._corpus.places())
    assert refusal(error)
