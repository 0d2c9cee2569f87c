"""What the ending of a file's name says of it."""

from pathlib import Path

JSON_LINES = (".jsonl", ".json-lines", ".jsonlines", ".ndjson", ".json")
PLAIN = (".txt", ".md", ".text")
TABLES = (".parquet", ".arrow")
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}  # endings after another one, and pyarrow's names for them


def ending(path: Path) -> str:
    """Return the ending that tells what is in a file, in lower case: of `a.jsonl.gz` it is `.jsonl`."""
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower()


def is_table(path: Path) -> bool:
    """Tell whether a file holds its documents in columns."""
    return path.suffix.lower() in TABLES


def is_packed(path: Path) -> bool:
    """Tell whether a file cannot be read from any place, so that it is unpacked first."""
    return is_table(path) or path.suffix.lower() in COMPRESSED


def has_fields(path: Path) -> bool:
    """Tell whether each document of a file is a record of named fields, rather than plain text."""
    return is_table(path) or ending(path) in JSON_LINES


def is_text(path: Path) -> bool:
    """Tell whether a file in a folder is one to read."""
    return is_table(path) or ending(path) in JSON_LINES + PLAIN
