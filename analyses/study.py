"""The study that most questions read: the demo, SmolLM2 over the manual of Python, as it lies in `out/demo`.

    python analyses/study.py      # all 30 layers x 24 documents of 256 tokens, four nulls; six minutes on two cores

Whichever question comes first makes it, as `make demo` does.
"""

import argparse
import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray

import infodyn_interp as idi
from infodyn_interp.cli.commands import demo
from infodyn_interp.cli.measuring import READS
from infodyn_interp.cli.progress import Report
from infodyn_interp.figures import Plate
from infodyn_interp.results import FILE

if TYPE_CHECKING:
    from infodyn_interp.models import Model
    from infodyn_interp.texts import Texts

HERE = Path(__file__).parent
OUT = HERE.parent / "out" / "analyses"
LAYERS = (*range(0, 30, 3), 29)  # of questions that read the model again


def listen(words: str | None) -> argparse.ArgumentParser:
    """The parser of a question: its help is its own text, and the study may lie elsewhere."""
    ask = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument(
        "--study", type=Path, default=HERE.parent / "out" / "demo", help="folder of the demo's result"
    )
    return ask


def read_study(folder: Path) -> xarray.DataTree:
    """The demo's result, made where it is not there yet."""
    if not (folder / FILE).exists():
        demo(folder)
    return idi.open_result(folder)


def open_demo(folder: Path) -> "tuple[Model, Texts]":
    """The demo model, and the texts as the study read them: 24 documents, 27 others for the reference."""
    told = json.loads(read_study(folder).attrs["run"])
    model = idi.open_model("demo", dtype=told["dtype"])
    how = {key: told[key] for key in READS if key not in ("revision", "dtype", "seed") and key in told}
    return model, idi.read_texts(folder / "topics.jsonl", model.tokenizer, **how)


def read_manual(**how: Any) -> "tuple[Model, Texts]":
    """The demo model, and 24 documents of the running Python's own manual beside 20 of the reference.

    Keywords are those of `idi.read_texts`.
    """
    model = idi.open_model("demo")
    texts = list(topics.values())
    sizes = {"window": 256, "documents": 24, "reference_documents": 20}
    return model, idi.read_texts(texts, model.tokenizer, **sizes | how)


def sweep(name: str, model: "Model", texts: "Texts", **how: Any) -> xarray.DataTree:
    """A further sweep, kept under a name in `OUT`; its nulls read as much as the model. Arguments as of `idi.sweep`."""
    equal = {"null_share": 1, "null_reference_tokens": texts.tokens("reference")}
    with Report() as report:
        return idi.sweep(model, texts, **equal | how, limits=(), out=OUT / name, progress=report)


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
    print(idi.summary(read_study(listen(__doc__).parse_args().study)))


if __name__ == "__main__":
    main()
