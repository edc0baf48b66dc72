"""Rows in memory or on disk: the same bytes, and an error that names the cause when the disk has no room."""

import errno
from unittest.mock import patch

import pytest

from etl.errors import DatabaseError
from etl.ingestion.transform import buffering
from etl.ingestion.transform.buffering import RowBuffer


@pytest.mark.parametrize("most", [1, 30, 1_000])
def test_rows_are_the_same_in_memory_and_on_disk(most: int) -> None:
    """Rows are kept in order, and rows that are cut off leave nothing, wherever the buffer keeps them."""
    with patch.object(buffering, "ROWS_BYTES", most), patch.object(buffering, "_TOGETHER", 7):
        buffer = RowBuffer()
        assert buffer.add(["one\n", "zwölf\n"]) == 2
        size = buffer.size
        assert buffer.add(f"{number}\n" for number in range(20)) == 20
        assert b"".join(buffer.parts()).count(b"\n") == 22
        buffer.cut(size)
        assert buffer.add(["last\n"]) == 1
        for _ in range(2):  # A batch that the server refused is sent again.
            assert b"".join(buffer.parts()).decode() == "one\nzwölf\nlast\n"


def test_a_full_disk_ends_the_load_for_now() -> None:
    """When a temporary file cannot be written, the load ends as for a full disk, and the message says why."""
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        patch.object(buffering, "ROWS_BYTES", 1),
        patch.object(buffering, "TemporaryFile", side_effect=full),
        pytest.raises(DatabaseError, match="temporary file: no space left on device") as caught,
    ):
        RowBuffer().add(["one\n"])
    assert "TMPDIR" in str(caught.value.hint)
