"""Does `infodyn plan` foretell what a run takes?

Three configurations of the demo model, unlike the ones that the memory formula was written on: `infodyn plan` in one
process, the run itself in another, ratios of the two. Bars: disk within 10 %, memory within 25 %, time within 40 %.
Time is worth reading on a quiet machine alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from infodyn_interp.cli.studies import write_manual

HERE = Path(__file__).parent
MIB = 2**20
BARS = {"disk": 0.1, "result": 0.1, "memory": 0.25, "time": 0.4}
COMMON = ["--model", "demo", "--device", "cpu", "--windows-per-document", "1"]
CONFIGURATIONS = {
    "3 layers, 24 documents of 256, two nulls": (
        "--layers 0,10,20 --documents 24 --reference-documents 24 --window 256 --limits 10"
        " --nulls untrained,shuffled_tokens"
    ),
    "30 layers, 8 documents of 128": (
        "--documents 8 --reference-documents 12 --window 128 --limits none --nulls none"
    ),
    "6 layers, 8 documents of 512": (
        "--layers 0:30:5 --documents 8 --reference-documents 6 --window 512 --limits none --nulls none --micro-batch 2"
    ),
}  # fmt: skip
INFODYN = [sys.executable, "-c", "import sys; from infodyn_interp.cli import main; sys.exit(main())"]


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder, which may go while they are looked at."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def run(words: list[str], out: Path) -> dict[str, float]:
    """Run a sweep in a process of its own: most on disk, bytes of the result, peak memory, seconds of its stages."""
    process = subprocess.Popen([*INFODYN, "sweep", *words, "--out", str(out)], stdout=subprocess.DEVNULL)
    disk = 0
    while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        disk = max(disk, size_of(out))
        time.sleep(0.02)
    _, status, usage = ended
    if status:
        raise SystemExit(f"sweep {' '.join(words)}: exit {os.waitstatus_to_exitcode(status)}")
    shown = subprocess.run([*INFODYN, "show", str(out), "cost", "--json"], capture_output=True, check=True)
    return {
        "disk": disk / MIB,
        "result": (out / "result.nc").stat().st_size / MIB,
        "memory": usage.ru_maxrss / (MIB if sys.platform == "darwin" else 1024),
        "time": sum(row["seconds"] for row in json.loads(shown.stdout)),
    }


def plan(words: list[str], out: Path) -> dict[str, float]:
    """What `infodyn plan` says of it."""
    told = subprocess.run(
        [*INFODYN, "plan", *words, "--out", str(out), "--json"], capture_output=True, check=True
    )
    found = json.loads(told.stdout)
    names = {"disk": "disk_mib", "result": "result_mib", "memory": "peak_mib", "time": "seconds"}
    return {what: found[name] for what, name in names.items()}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--only", type=int, help="number of one configuration, from 0 on")
    ask.add_argument("--threads", type=int, default=2)
    asked = ask.parse_args()
    chosen = list(CONFIGURATIONS.items())
    rows = []
    for name, more in chosen if asked.only is None else [chosen[asked.only]]:
        with tempfile.TemporaryDirectory() as folder:
            texts = write_manual(Path(folder))
            words = [*COMMON, "--texts", str(texts), "--threads", str(asked.threads), *more.split()]
            foretold, measured = plan(words, Path(folder) / "out"), run(words, Path(folder) / "out")
        for what, bar in BARS.items():
            ratio = foretold[what] / measured[what]
            rows.append(
                {
                    "configuration": name,
                    "what": what,
                    "plan": foretold[what],
                    "measured": measured[what],
                    "ratio": ratio,
                    "bar": bar,
                    "within": abs(ratio - 1) <= bar,
                }
            )
            print(rows[-1], flush=True)
    (HERE / "data").mkdir(exist_ok=True)
    pd.DataFrame(rows).round(3).to_csv(HERE / "data" / "plan.csv", index=False)


if __name__ == "__main__":
    main()
