"""What our Hydra plugins cost an app that does not use them: paired runs of one with and without the plugins, by
`python benchmarks/plugin_discovery.py [PAIRS]`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

APP = """
import sys
from pathlib import Path
if sys.argv.pop() == "without":
    sys.path[:] = [entry for entry in sys.path if not (Path(entry) / "hydra_plugins").is_dir()]
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    pass

main()
"""


def seconds(app: Path, how: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, str(app), "hydra.run.dir=out", how], cwd=app.parent, check=True)
    return time.perf_counter() - start


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder) / "app.py"
        app.write_text(APP)
        for how in ("with", "without"):
            seconds(app, how)
        rows = []
        for number in range(pairs):  # alternate which one goes first
            order = ("with", "without") if number % 2 else ("without", "with")
            elapsed = {how: seconds(app, how) for how in order}
            rows.append((elapsed["with"], elapsed["without"]))
    ratios = sorted(with_plugins / without for with_plugins, without in rows)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    print(f"with the plugins {medians[0]:.3f} s, without {medians[1]:.3f} s")
    print(f"ratio {statistics.median(ratios):.3f} (half of the pairs: {low:.3f} to {high:.3f}, {pairs} pairs)")


if __name__ == "__main__":
    main()
