from pathlib import Path

import pytest

from etl.ingestion.sources.naming import named
from etl.ingestion.values import Source


def test_an_argument_names_a_file_a_pattern_or_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources come sorted; of a folder all files but hidden and unfinished ones; what is not there keeps its name."""
    monkeypatch.chdir(tmp_path)
    folder = Path("in")
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.json", "a.json.gz", ".hidden", "c.json.part", "d.tmp", "[e].json"):
        (folder / name).touch()
    (folder / "deeper" / "f.txt").touch()
    assert [source.path for source in named("in")] == ["in/[e].json", "in/a.json.gz", "in/b.json"]
    assert [source.path for source in named("in/*.json")] == ["in/[e].json", "in/b.json"]
    assert [source.path for source in named("in/[e].json")] == ["in/[e].json"]
    assert [source.path for source in named("in/*")] == ["in/[e].json", "in/a.json.gz", "in/b.json"]
    assert [source.path for source in named("in/**/*.txt")] == ["in/deeper/f.txt"]
    assert named("in/none*", "cp1252") == [Source(name="in/none*", path="in/none*", encoding="cp1252")]
    assert named("-") == [Source(name="-", path=None)]
    (odd,) = named("in/\udcff.json")
    assert (odd.name, odd.path) == (r"in/\xff.json", "in/\udcff.json")
    (folder / "deeper" / "f.txt").unlink()
    assert named("in/deeper") == [Source(name="in/deeper", path="in/deeper")]


def test_files_without_records_are_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What other programs write beside an export is no source, unless the pattern or the path names it."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "_SUCCESS",
        "_committed_123",
        ".part-00000.json.gz.crc",
        "part-00000.json.gz",
        "part-00000.json.gz.md5",
        "part-00001.json",
        "part-00001.json.filepart",
        "export.done",
        "_delta_log/0.json",
        "day=1/part-00000.json",
        "day=1/_own.json",
    ):
        path = Path("out", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [source.path for source in named("out")] == ["out/part-00000.json.gz", "out/part-00001.json"]
    assert [source.path for source in named("out/*")] == ["out/part-00000.json.gz", "out/part-00001.json"]
    assert [source.path for source in named("out/**/*.json")] == ["out/day=1/part-00000.json", "out/part-00001.json"]
    assert [source.path for source in named("out/day=1/_*.json")] == ["out/day=1/_own.json"]
    assert [source.path for source in named("out/_delta_log/*.json")] == ["out/_delta_log/0.json"]
    assert [source.path for source in named("out/*.done")] == ["out/export.done"]
    assert [source.path for source in named("out/_SUCCESS")] == ["out/_SUCCESS"]
