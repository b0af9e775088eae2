import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_a_damaged_file_of_any_kind_is_a_value_or_one_line():
    """30 mutations of each kind; `./run.sh bench fuzz` runs 500 of each."""
    process = subprocess.run(
        [sys.executable, "benchmarks/fuzz.py", "--mutations", "30"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
