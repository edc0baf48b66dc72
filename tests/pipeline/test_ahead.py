"""Work that is done ahead of the batch in hand."""

from collections.abc import Iterator

import pytest

from etl.ingestion.pipeline.ahead import Ahead
from etl.ingestion.pipeline.job import Stop


def _making(*made: str | None) -> Iterator[str | None]:
    yield from made
    raise ValueError("the end")


def test_work_ahead_stays_within_its_bounds() -> None:
    """One is made, and so many parts of the next; never a third, and the error comes last."""
    ahead = Ahead(_making(None, "a", None, None, None, "b", "c"), beyond=2)
    items = ahead.until(Stop())
    assert [ahead.work() for _ in range(6)] == [True, True, True, True, False, False]
    assert next(items) == "a"
    assert [ahead.work() for _ in range(5)] == [True, True, True, False, False]
    assert next(items) == "b"
    assert [ahead.work() for _ in range(2)] == [True, False]
    assert next(items) == "c"
    with pytest.raises(ValueError, match="the end"):
        next(items)


def test_nothing_is_lost_of_a_source_that_breaks_off() -> None:
    """What was made before the error is given out before it is raised."""
    ahead = Ahead(_making(*"abc"), beyond=5)
    while ahead.work():
        pass
    items = ahead.until(Stop())
    assert [next(items), next(items), next(items)] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="the end"):
        next(items)
