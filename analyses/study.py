"""The study that most questions read: one sweep of SmolLM2 over the manual of Python, kept in `out/analyses/study`.

    python analyses/study.py      # 11 layers x 24 documents of 256 tokens, five nulls on the same documents

Whichever question comes first makes it; it goes on where it was stopped.
"""

import argparse
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray

import infodyn_interp as idi
from infodyn_interp.cli.progress import Report
from infodyn_interp.figures import Plate
from infodyn_interp.identify.nulls import NULLS

if TYPE_CHECKING:
    from infodyn_interp.models import Model
    from infodyn_interp.texts import Texts

HERE = Path(__file__).parent
OUT = HERE.parent / "out" / "analyses"
LAYERS = (*range(0, 30, 3), 29)


def listen(words: str | None) -> argparse.ArgumentParser:
    """The parser of a question, whose help is its own text."""
    return argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)


def read_demo() -> "tuple[Model, Texts]":
    """The demo model, and 24 documents of the running Python's own manual beside 24 for the reference."""
    model = idi.open_model("demo")
    texts = idi.read_texts(
        list(topics.values()),
        model.tokenizer,
        window=256,
        windows_per_document=1,
        documents=24,
        reference_documents=24,
        reference_windows_per_document=4,
    )
    return model, texts


def read_study(model: "Model", texts: "Texts") -> xarray.DataTree:
    """The sweep with all terms and nulls; each null reads as many documents and reference tokens as the model."""
    return sweep("study", model, texts, nulls=NULLS, ladder_documents=12)


def sweep(name: str, model: "Model", texts: "Texts", **how: Any) -> xarray.DataTree:
    """A sweep that is kept under a name in `OUT`; arguments as of `idi.sweep`."""
    equal = {"null_share": 1, "null_reference_tokens": texts.tokens("reference")}
    with Report() as report:
        return idi.sweep(model, texts, **{"layers": LAYERS} | equal | how, out=OUT / name, progress=report)


def publish(name: str, table: pd.DataFrame, plate: Plate) -> None:
    """Write the data of a figure, the figure and its caption, and say the caption."""
    data, figures = HERE / "data", HERE / "figures"
    for folder in (data, figures):
        folder.mkdir(exist_ok=True)
    table.to_csv(data / f"{name}.csv", index=False, float_format="%.4g")
    plate.savefig(figures / f"{name}.png", dpi=200)
    (figures / f"{name}.txt").write_text(plate.caption + "\n", "utf-8")
    print(plate.caption)


def main() -> None:
    """Make it, and say in words what is in it."""
    listen(__doc__).parse_args()
    print(idi.summary(read_study(*read_demo())))


if __name__ == "__main__":
    main()
