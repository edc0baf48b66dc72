"""The structure of a running load: the modules that it enters, the depth of its stack, the calls to upper layers."""

import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from scripts.structure import measures
from tests.support.checkout import ROOT
from tests.support.site import Site

PACKAGE = f"{ROOT / 'etl'}/"
MAX_MODULES = {
    "etl": 9,
    "etl/cli": 7,
    "etl/database": 7,
    "etl/datasets": 6,
    "etl/ingestion": 3,
    "etl/ingestion/destination": 5,
    "etl/ingestion/failed_store": 2,
    "etl/ingestion/framing": 9,
    "etl/ingestion/ledger": 5,
    "etl/ingestion/pipeline": 12,
    "etl/ingestion/recognition": 2,
    "etl/ingestion/sources": 3,
    "etl/ingestion/transform": 12,
}
"""So many modules of each room a load may enter; decision 19 has the reasons."""

MAX_FRAMES = 26


class Profile:
    """The frames of this program in the calls of a load."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.deepest: list[str] = []
        self.calls: set[tuple[str, str]] = set()

    def note(self, frame: FrameType, event: str, _argument: object) -> None:
        """Take an event of `sys.setprofile`."""
        path = frame.f_code.co_filename
        if event != "call" or not path.startswith(PACKAGE) or frame.f_code.co_name == "<module>":
            return
        if path == f"{PACKAGE}quick_dataclasses.py":  # As for the methods that the standard library generates.
            return
        self.modules.add(path)
        stack = list(_frames(frame))
        if len(stack) > len(self.deepest):
            self.deepest = [f"{each.f_code.co_filename.removeprefix(PACKAGE)}:{each.f_code.co_name}" for each in stack]
        self.calls.update({(_room(stack[1]), _room(stack[0]))} if len(stack) > 1 else ())


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the frames of this program, the innermost first."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            yield frame
        frame = frame.f_back


def _room(frame: FrameType) -> str:
    parts = frame.f_code.co_filename.removeprefix(PACKAGE).removesuffix(".py").split("/")
    return ".".join(parts[: 2 if parts[0] == "ingestion" else 1])


def _layers() -> dict[str, int]:
    """Return the layer of each room, 0 the highest, as import-linter checks them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    return {room.strip(): number for number, layer in enumerate(layers) for room in layer.split("|")}


def _climbs(calls: set[tuple[str, str]]) -> set[tuple[str, str]]:
    layers = _layers()
    return {(lower, upper) for lower, upper in calls if layers[upper] < layers[lower]}


def _profiled(site: Site, name: str, *words: str) -> Profile:
    """Profile a load of generated shipments; everything was imported by a load before."""
    result = Profile()
    sys.setprofile(result.note)
    try:
        ended = site.run("load", "shipments", name, "--workers", "1", "--force", *words)
    finally:
        sys.setprofile(None)
    assert ended.returncode == (0 if name == "clean.json" else 1)
    return result


@pytest.mark.aggregates
def test_a_load_enters_few_modules_stays_shallow_and_climbs_where_the_page_says(site: Site) -> None:
    """A load enters a limited number of modules of each room, and its stack has a limited depth.

    A frame of an upper room below a lower one is a climb: the architecture page lists each of an ordinary load.
    """
    site.run("generate", "shipments", "--records", "3000", "--seed", "5", "--bad", "0.5%", "--output", "bad.json")
    site.run("generate", "shipments", "--records", "3000", "--seed", "5", "--output", "clean.json")
    site.run("load", "shipments", "clean.json", "bad.json")
    profile = _profiled(site, "clean.json", "--no-precalculate")
    entered = Counter(str(Path(module).parent.relative_to(ROOT)) for module in profile.modules)
    too_many = {room for room, count in entered.items() if count > MAX_MODULES.get(room, 0)}
    assert not too_many, sorted(profile.modules)
    assert len(profile.deepest) <= MAX_FRAMES, profile.deepest
    assert profile.deepest[-1].startswith("cli/")
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    [section] = re.findall(r"<!-- climbs -->\n(.*?)<!-- end: climbs -->", page, re.DOTALL)
    ordinary = section.partition("In some loads")[0]
    named = set(re.findall(r"`([a-z_.]+)` -> `([a-z_.]+)`:", ordinary))
    assert _climbs(profile.calls | _profiled(site, "bad.json").calls) == named


def test_no_room_is_too_big() -> None:
    """No room holds more than 15 % of the lines, and no function is long."""
    found: dict[str, Any] = measures(ROOT)
    share = re.search(r"([0-9.]+) %", found["biggest room"])
    assert share is not None
    assert float(share[1]) <= 15
    assert int(found["functions over 40 lines"]) == 0
