"""Environments with programs of others: a slow test makes one, or skips where no registry has the packages.

`KEPT_ENVIRONMENTS` names a folder in which they stay for the next run of the tests.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def made(factory: pytest.TempPathFactory, name: str, *packages: str) -> Path:
    """Make an environment with these packages, and return its folder of programs; skip if they cannot be installed."""
    kept = os.environ.get("KEPT_ENVIRONMENTS")
    folder = Path(kept) / name if kept else factory.mktemp(name)
    if not (folder / "bin" / "pip").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip: list[str | Path] = [folder / "bin" / "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = subprocess.run([*pip, "--prefer-binary", *packages], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip printed no reason"])[-1]
        pytest.skip(f"cannot install {', '.join(packages)}: {reason}")
    return folder / "bin"
