"""`make bench`: every measurement, one after the other; the last line is the list of all figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LIBRARIES = {"__init__.py", "all.py", "fragments.py", "gpu_rows.py", "house.py", "mix665k.py", "mixes.py", "planted.py"}
"""Files of this folder that measure nothing themselves."""
ON_A_GPU = {"gpu.py"}
HAS_GPU = Path("/proc/driver/nvidia/version").exists()


def main() -> None:
    figures, failed = [], []
    for file in sorted(HERE.glob("*.py")):
        if file.name in LIBRARIES or (file.name in ON_A_GPU and not HAS_GPU):
            continue
        print(f"== {file.name}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", f"bench.{file.stem}"],
            cwd=HERE.parent,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        print(done.stdout, flush=True)
        if done.returncode:
            failed.append(file.name)
            continue
        reported = json.loads(done.stdout.strip().splitlines()[-1])
        figures += reported if isinstance(reported, list) else [reported]
    missed = [one["figure"] for one in figures if not one["ok"]]
    print(f"{len(figures)} figures, {len(missed)} missed their goal: {missed}; failed: {failed}")
    print(json.dumps(figures))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
