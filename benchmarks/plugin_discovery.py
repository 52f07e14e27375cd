"""What our Hydra plugins cost an app that has nothing to do with us: paired runs of one with and without them.

python benchmarks/plugin_discovery.py [pairs]
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
    sys.path[:] = [place for place in sys.path if not (Path(place) / "hydra_plugins").is_dir()]
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    pass

main()
"""


def seconds(app: Path, how: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, str(app), "hydra.run.dir=out", how], cwd=app.parent, check=True)
    return time.perf_counter() - began


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder) / "app.py"
        app.write_text(APP)
        for how in ("with", "without"):
            seconds(app, how)
        rows = []
        for number in range(pairs):  # in turns, each as often first
            order = ("with", "without") if number % 2 else ("without", "with")
            took = {how: seconds(app, how) for how in order}
            rows.append((took["with"], took["without"]))
    ratios = sorted(one / other for one, other in rows)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    print(f"with the plugins {medians[0]:.3f} s, without {medians[1]:.3f} s")
    print(f"ratio {statistics.median(ratios):.3f} (half of the pairs: {low:.3f} to {high:.3f}, {pairs} pairs)")


if __name__ == "__main__":
    main()
