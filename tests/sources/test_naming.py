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
