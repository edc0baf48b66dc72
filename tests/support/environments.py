"""Environments with programs of others: a slow test makes one, or skips where no registry has the packages."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest


@cache
def made(folder: Path, *packages: str) -> Path:
    """Make an environment with these packages, and return its folder of programs; skip if they cannot be installed."""
    if not (folder / "bin").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip: list[str | Path] = [
        folder / "bin" / "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--prefer-binary",
        *packages,
    ]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        pytest.skip(f"cannot install {', '.join(packages)}: {reason}")
    return folder / "bin"
