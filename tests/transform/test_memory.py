"""The memory of records that become many times their bytes, measured in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

DEFINITION = """
name = "wide"
[[table]]
name = "lab.wide"
columns = { id = "text", doc = "jsonb" }
[[table]]
name = "lab.wide_kids"
each = "kids"
columns = { id = { path = "^.id", type = "text" }, no = { path = "#", type = "integer" }, k = "text" }
"""

PROGRAM = """
import sys
from pathlib import Path
from etl.datasets.reading import read
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.transform.fastpath import FastPath
from etl.ingestion.transform.paths import CheckedPath, Paths, fast
from etl.ingestion.transform.projection import Projection
from tests.support.streams import Bytes

SOURCES = {
    "children": lambda: b'{"id":"1","kids":[' + b",".join([b'{"k":"a"}'] * 200_000) + b"]}",
    "a value": lambda: b'{"id":"1","doc":[' + b",".join([b'{"k":"a"}'] * 200_000) + b"]}",
    "no column": lambda: b'{"id":"1","u":{"v":[' + b",".join([b'{"k":"a"}'] * 200_000) + b"]}}",
    "repeated": lambda: b'{"id":"' + b"x" * 10_000 + b'","kids":[' + b",".join([b'{"k":"a"}'] * 15_000) + b"]}",
}
COUNTS = {"children": [1, 200_000], "repeated": [1, 15_000]}


def highest():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) >> 10


decoder, name, shape, definition = sys.argv[1:]
dataset = read(Path(definition))
projection = Projection(dataset)
first = FastPath(fast(dataset), projection, 1)
paths = Paths(*((first, first) if decoder == "auto" else (None, None)), CheckedPath(projection, 1))
record = SOURCES[name]()
data = b"[{}," + record + b",{}]" if shape == "array" else b"{}\\n" + record + b"\\n{}"
before = highest()
counts = [0, 0]
for piece in cut(Bytes(data), CutOptions(format="auto", records_path="item", batch_rows=20_000, prover=paths)):
    for batch in paths.batching(piece):
        if batch is not None:
            assert not batch.rejected, batch.rejected
            for table, parts in enumerate(batch.tables):
                counts[table] += sum(part.count for part in parts)
                assert sum(1 for part in parts for _ in part.encoded()) < 1_000
assert counts == [3, COUNTS.get(name, [1, 0])[1]], counts
print(highest() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system reports the peak memory of a process by another way")
@pytest.mark.parametrize(
    ("decoder", "name", "shape"),
    [
        ("auto", "children", "array"),
        ("auto", "repeated", "lines"),
        pytest.param("ijson", "a value", "array", marks=pytest.mark.slow),
        pytest.param("ijson", "children", "lines", marks=pytest.mark.slow),
        pytest.param("ijson", "no column", "array", marks=pytest.mark.slow),
        pytest.param("ijson", "repeated", "array", marks=pytest.mark.slow),
        pytest.param("auto", "a value", "array", marks=pytest.mark.slow),
    ],
)
def test_a_record_takes_memory_by_its_bytes(decoder: str, name: str, shape: str, tmp_path: Path) -> None:
    """Many children, large values and repeated columns take memory by the bytes of the record, not by their number."""
    definition = tmp_path / "wide.toml"
    definition.write_text(DEFINITION)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, decoder, name, shape, str(definition)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # A record of two megabytes; rows beyond 32 MiB are on disk.
    assert int(done.stdout) < (64 if name == "repeated" else 40), done.stdout
