"""Does memory stay the same as texts grow, and time grow as a line?

Peak resident memory of whole fits of a layer of a tiny model (carry included, no nulls), each in a process of its own:
50 windows against 500, and 500 short documents against 20,000; bars 30 and 60 MiB. With `--scaling`, on a quiet
machine: seconds of 10 to 3,000 short documents as a line (R2 >= .99), and two workers against one.
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
SENTENCE = "the clock kept its own time and nobody waved . , why would they ? it was raining numbers 1 42"
WINDOW = 48
SHORT = 30  # words of a document of one window
BARS = {"windows": 30, "documents": 60}  # MiB


def one_fit(model: str, documents: int, words: int, micro_batch: int, workers: int = 1) -> dict[str, float]:
    """Fit `documents` documents, ten more being the reference; peak memory and seconds."""
    import torch

    import infodyn_interp as idi
    from infodyn_interp.sweeping.settings import peak_mib

    torch.set_num_threads(1)
    draw, known = np.random.default_rng(0), SENTENCE.split()
    opened = idi.open_model(model)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.txt"
        with file.open("w") as stream:
            for _ in range(documents + 10):
                stream.write(" ".join(draw.choice(known, words)) + "\n\n")
        opened_mib, begun = peak_mib(), time.perf_counter()
        texts = idi.read_texts(
            file,
            opened.tokenizer,
            window=WINDOW,
            split=True,
            windows_per_document=10**6,
            reference_documents=10,
        )
        counted = time.perf_counter()
        result = idi.sweep(
            opened,
            texts,
            layers=[0],
            state_rank=4,
            micro_batch=micro_batch,
            limits=(),
            nulls=(),
            threads=1,
            workers=workers,
            out=Path(folder) / "out",
        )
        over = time.perf_counter()
    cost = result["cost"].to_dataset()
    return {
        "documents": texts.documents,
        "windows": texts.windows(),
        "opened_mib": opened_mib,
        "peak_mib": peak_mib(),
        "count_seconds": counted - begun,
        "sweep_seconds": over - counted,
        **{
            f"{stage}_seconds": float(cost["seconds"].sel(stage=stage))
            for stage in ("fit", "carry", "reduce")
        },
    }


def apart(*arguments: object) -> dict[str, float]:
    """The same in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(one_fit, *arguments).result()


def save_model(folder: Path) -> str:
    """A tiny model with its tokenizer."""
    import families

    families.build("llama").save_pretrained(folder)
    families.save_tokenizer(folder)
    return str(folder)


def memory(model: str) -> pd.DataFrame:
    """Peaks, and how they differ."""
    # fewer windows in one forward than any full shard has: else larger shards would make larger batches
    sizes = {"windows": [(10, 105), (10, 1050)], "documents": [(500, SHORT), (20_000, SHORT)]}
    rows = []
    for kind, asked in sizes.items():
        less, more = (apart(model, *one, 20) for one in asked)
        grown = more["peak_mib"] - less["peak_mib"]
        rows.append(
            {
                "of": kind,
                "documents": f"{less['documents']} -> {more['documents']}",
                "windows": f"{less['windows']} -> {more['windows']}",
                "peak_mib": f"{less['peak_mib']:.0f} -> {more['peak_mib']:.0f}",
                "grown_mib": grown,
                "bar_mib": BARS[kind],
                "within": grown <= BARS[kind],
            }
        )
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def straight(documents: np.ndarray, seconds: np.ndarray) -> float:
    """R2 of the line through the origin."""
    line = documents * (documents @ seconds) / (documents @ documents)
    return 1 - np.square(seconds - line).sum() / np.square(seconds - seconds.mean()).sum()


def scaling(model: str) -> pd.DataFrame:
    """Seconds against documents, then two workers.

    The fit reads every window once, and its seconds are to be a line through the origin. Ladder and swap gate read the
    first documents alone: to a whole run of more documents than that they are a part of its set-up.
    """
    counts = (10, 30, 100, 300, 1000, 3000)
    rows = pd.DataFrame([apart(model, count, SHORT, 4) for count in counts], index=counts)
    fit = straight(rows.index.to_numpy(float), rows["fit_seconds"].to_numpy())
    beyond = rows.loc[100:, "sweep_seconds"] - rows.loc[100, "sweep_seconds"]
    whole = straight(beyond.index.to_numpy(float) - 100, beyond.to_numpy())
    two = pd.DataFrame([apart(model, counts[-1], SHORT, 4, 2)], index=counts[-1:])
    ratio = two["sweep_seconds"].iloc[0] / rows["sweep_seconds"].iloc[-1]
    print(f"R2 of the fit {fit:.4f}, of a whole run beyond 100 documents {whole:.4f} (bar .99)")
    print(f"two workers over one {ratio:.2f}")
    return pd.concat([rows, two], keys=["one worker", "two workers"], names=["workers", "asked"])


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--scaling", action="store_true", help="time instead of memory; on a quiet machine")
    asked = ask.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = save_model(Path(folder))
        table = scaling(model) if asked.scaling else memory(model)
    name = "scaling.csv" if asked.scaling else "memory.csv"
    (HERE / "data").mkdir(exist_ok=True)
    table.round(3).to_csv(HERE / "data" / name, index=asked.scaling)
    print(table.to_string())


if __name__ == "__main__":
    main()
