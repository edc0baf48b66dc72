"""The files in an archive: each is a source of its own, `archive!member`, in messages, runs and names."""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from etl.errors import SourceError
from etl.ingestion.sources.naming import named
from etl.ingestion.sources.stream import opened
from tests.support.records import vehicles
from tests.support.site import Site

Files = Mapping[str, bytes]


def _tar(mode: str) -> Callable[[Path, Files], None]:
    def write(path: Path, files: Files) -> None:
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload] # one of its modes
            archive.addfile(_folder("e"))
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    return write


def _folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def _zip(path: Path, files: Files) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("e")
        for name, content in files.items():
            archive.writestr(name, content)


ARCHIVES = {
    "many.tar": _tar("w:"),
    "many.tar.gz": _tar("w:gz"),
    "many.tgz": _tar("w:gz"),
    "many.tar.xz": _tar("w:xz"),
    "export": _tar("w:bz2"),
    "many.zip": _zip,
}


def _lines(first: int, last: int) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in vehicles(first, last)).encode()


FILES = {
    "e/1.ndjson": _lines(1, 3),
    "e/deep/2.json": json.dumps(vehicles(4, 5)).encode(),
    "e/3.json.gz": gzip.compress(_lines(6, 7)),
    "e/_SUCCESS": b"",
    "__MACOSX/e/._1.ndjson": b"x",
    f"e/{'long' * 40}.ndjson": _lines(8, 8),
}
READ = ["e/1.ndjson", "e/deep/2.json", "e/3.json.gz", f"e/{'long' * 40}.ndjson"]


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_names_its_files(tmp_path: Path, name: str) -> None:
    """Each file that may hold records is a source with its bytes; its name is found again."""
    path = tmp_path / name
    ARCHIVES[name](path, FILES)
    sources = named(str(path))
    assert [source.name for source in sources] == [f"{path}!{member}" for member in READ]
    for source in (*sources, *(each for known in sources for each in named(known.name))):
        with opened(source) as stream:
            content = FILES[source.name.partition("!")[2]]
            expected = gzip.decompress(content) if source.name.endswith(".gz") else content
            assert (stream.read(1 << 20), stream.plain_path) == (expected, None)
    assert named(f"{path}!e/none.json")[0].member is None


def test_a_file_that_is_no_archive_is_itself(tmp_path: Path) -> None:
    """A compressed file, a zip archive with one file, and a name with ! are sources as before."""
    (tmp_path / "a!b.json").write_bytes(b"[]")
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"[]"))
    _zip(tmp_path / "one.zip", {"a.json": b"[]"})
    for name in ("a!b.json", "a.json.gz", "one.zip", "missing!a"):
        [source] = named(str(tmp_path / name))
        assert (source.name, source.member) == (str(tmp_path / name), None)


@pytest.mark.parametrize("name", ["many.tar", "many.tar.gz"])
def test_an_archive_that_is_cut_off_is_reported(tmp_path: Path, name: str) -> None:
    """No source is missed without a word: an archive whose end is missing is exit code 3."""
    path = tmp_path / name
    ARCHIVES[name](path, FILES)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match="cut off or damaged"):
        named(str(path))


def test_each_file_of_an_archive_is_a_run(site: Site) -> None:
    """Each has its own numbers, rejected records and run; a file is known again, in or out of an archive."""
    bad = b'{"vehicle_id": null}\n'
    ARCHIVES["many.tar.gz"](
        site.folder / "many.tar.gz", {"a.ndjson": _lines(1, 2) + bad, "b.json": FILES["e/deep/2.json"]}
    )
    done = site.run("load", "vehicles", "many.tar.gz", "--json", "--workers", "2")
    assert [(each["source"], each["records"]["loaded"], each["exit_code"]) for each in done.summaries] == [
        ("many.tar.gz!a.ndjson", 2, 1),
        ("many.tar.gz!b.json", 2, 0),
    ]
    [failure] = site.run("failed", "show", "--all", "--json").lines
    assert (failure["source"], failure["records"][0]["record"]) == ("many.tar.gz!a.ndjson", 3)
    trace = site.run("runs", "trace", "logistics.vehicles", "vehicle_id=V005", "--json").lines[0]
    assert (trace["source"], trace["record"]) == ("many.tar.gz!b.json", 2)
    assert json.loads(trace["text"])["vehicle_id"] == "V005"
    (site.folder / "again.ndjson").write_bytes(_lines(1, 2) + bad)
    for name in ("many.tar.gz", "many.tar.gz!b.json", "again.ndjson"):
        assert {each["status"] for each in site.run("load", "vehicles", name, "--json").summaries} == {"already_loaded"}


def test_a_broken_file_of_an_archive_hinders_no_other(site: Site) -> None:
    """A file that is no JSON is exit code 3 under its own name, and the others are loaded."""
    ARCHIVES["many.zip"](site.folder / "many.zip", {"a.json": b"[", "b.json": FILES["e/deep/2.json"], "c.json": b""})
    done = site.run("load", "vehicles", "many.zip", "--json")
    assert done.returncode == 3
    assert [(each["source"], each["exit_code"]) for each in done.summaries][:2] == [
        ("many.zip!a.json", 3),
        ("many.zip!b.json", 0),
    ]
    assert "many.zip!a.json" in done.stderr
