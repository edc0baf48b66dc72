"""Reading aggregates needs no output format."""

import subprocess
import sys


def test_reading_aggregates_imports_nothing_of_a_report() -> None:
    """A program that only reads aggregates imports neither rich nor the reports."""
    program = "import sys, etl.precalculation.reading; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "etl.precalculation.reading" in modules
    assert {name for name in modules if name.split(".")[0] == "rich" or name.startswith("etl.report")} == set()
