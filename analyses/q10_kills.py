"""Does a run that is killed again and again come to the bits of one that is left alone?

    python analyses/q10_kills.py --kills 20      # SmolLM2, three layers; writes analyses/data/kills.csv

Each process is killed (SIGKILL) at a random moment of a stage that was killed fewest times so far; the same command
goes on. A run that finishes is compared, and another one begins until the kills are done.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import xarray

from infodyn_interp import results, sweeping
from infodyn_interp.cli.studies import write_manual

HERE = Path(__file__).parent
SWEEP = "sweep --model demo --layers 0,10,20 --window 64 --documents 12 --reference-documents 12 --limits 10"
SWEEP += " --windows-per-document 2 --reference-windows-per-document 4 --nulls shuffled_tokens --null-share 1"
SWEEP += " --null-reference-tokens 500 --ladder-documents 12 --documents-per-shard 1 --threads 1"
STAGES = ("survey", "fit", "ladder", "carry", "look", "reduce")
POLL = 0.01  # seconds between two looks at a run


def started(texts: Path, out: Path) -> subprocess.Popen[bytes]:
    """The sweep in a process of its own."""
    infodyn = [sys.executable, "-c", "import sys; from infodyn_interp.cli import main; sys.exit(main())"]
    line = [*infodyn, *SWEEP.split(), "--texts", str(texts), "--out", str(out)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stage_of(out: Path) -> str:
    """What a run is at: the first stage that lacks a shard, of the study or of a null; empty before there is one."""
    state = sweeping.read_state(out)
    if state is None:
        return ""
    left = [one["stage"] for one in state["stages"] if one["shards_done"] < one["shards"]]
    return left[0] if left else "reduce"


def different(out: Path, whole: xarray.DataTree) -> list[str]:
    """Variables of a result that are not those of the whole run, to the bit; what it cost aside."""
    made = results.open_result(out)
    names = sorted((set(whole.children) | set(made.children)) - {"cost"})
    return [
        f"{group}/{name}"
        for group in names
        for name in sorted(set(whole[group].variables) | set(made[group].variables))
        if not whole[group][name].identical(made[group][name])
    ]


def main() -> None:
    """Run it whole once, then kill, go on and compare."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--kills", type=int, default=20)
    ask.add_argument("--seed", type=int, default=0)
    asked = ask.parse_args()
    generator = np.random.default_rng(asked.seed)
    hits, least = Counter(dict.fromkeys(STAGES, 0)), asked.kills // len(STAGES)
    finished, wrong = 0, []
    with tempfile.TemporaryDirectory() as place:
        texts, out = write_manual(Path(place)), Path(place) / "out"
        if started(texts, Path(place) / "whole").wait():
            raise SystemExit("the whole run failed")
        whole = results.open_result(Path(place) / "whole")
        while True:
            done = hits.total() >= asked.kills and min(hits.values()) >= least
            target = "" if done else min(STAGES, key=lambda stage: (hits[stage], STAGES.index(stage)))
            process = started(texts, out)
            while process.poll() is None and not (target and stage_of(out) == target):
                time.sleep(POLL)
            if process.poll() is None:
                time.sleep(generator.uniform(0, 1.5))
            at = stage_of(out) if process.poll() is None else ""
            process.send_signal(signal.SIGKILL)
            if process.wait() == 0:
                finished, wrong = finished + 1, wrong + different(out, whole)
                shutil.rmtree(out)
                if done:
                    break
            elif at:
                hits[at] += 1
    table = pd.DataFrame({"stage": hits.keys(), "kills": hits.values()})
    table["runs_finished"], table["variables_that_differ"] = finished, len(wrong)
    (HERE / "data").mkdir(exist_ok=True)
    table.to_csv(HERE / "data" / "kills.csv", index=False)
    print(table.to_string(index=False), *wrong, sep="\n")


if __name__ == "__main__":
    main()
