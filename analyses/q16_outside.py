"""What shows outside? Coupling of what is inside with what an embedded reply does, by layer, beside the untrained twin.

    python analyses/q16_outside.py      # SmolLM2; writes analyses/data/outside.csv, analyses/figures/outside.png

Replies to eight openings are read by the study's frozen terms (seed, observation section); the embedder is the model's
own unembedding.
"""

from study import OUT, listen, open_demo, publish

from infodyn_interp import observing, results
from infodyn_interp.cli.progress import Report
from infodyn_interp.figures.saving import draw_all

OPENINGS = (
    "The old clock in the hall struck once, and",
    "To keep bread fresh for a week you should",
    "Nobody in the village could say why the river",
    "A function that calls itself is called",
    "My grandmother always told us that",
    "When the lights went out, the engineers",
    "The three rules of a good argument are",
    "On the second day of the journey we",
)
TRIALS, TOKENS = 6, 64


def main() -> None:
    """Draw replies, couple, draw, write."""
    folder = listen(__doc__).parse_args().study
    model, _ = open_demo(folder)
    with Report() as report:
        result = observing.trace(
            model,
            OPENINGS,
            inside=folder,
            out=OUT / "outside",
            trials=TRIALS,
            tokens=TOKENS,
            progress=report,
        )
    table = results.table(result, "coupling").drop(columns=["temperature"])
    publish("outside", table, draw_all(result)["coupling_map_1"])


if __name__ == "__main__":
    main()
