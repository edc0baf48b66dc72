"""The folder of the checkout, and the data beside it that some tests use."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# `make coverage` sets this variable to measure the child processes, too.
MEASURED = {name: os.environ[name] for name in ["COVERAGE_PROCESS_CONFIG"] if name in os.environ}

SAMPLES = ROOT / "tests" / "support" / "samples"

REAL_DATA = ROOT.parent / "shared" / "data"
needs_real_data = pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"the real files are not in {REAL_DATA}")
