"""The policy by which a batch is tried again."""

import psycopg
import pytest

from etl.ingestion.pipeline.batches import retry_policy
from etl.settings import RetrySettings


def test_waits_double_up_to_the_cap() -> None:
    """The waits begin at the base, double, stay below the cap, and have a jitter of at most the base."""
    waits: list[float] = []
    noted: list[int] = []

    def fails() -> None:
        raise psycopg.errors.SerializationFailure

    policy = retry_policy(
        RetrySettings(attempts=6, base_seconds=1.0, cap_seconds=6.0), lambda: noted.append(1), waits.append
    )
    with pytest.raises(psycopg.errors.SerializationFailure):
        policy(fails)
    assert len(waits) == len(noted) == 5
    for wait, least in zip(waits, [1.0, 2.0, 4.0, 6.0, 6.0], strict=True):
        assert least <= wait <= min(least + 1.0, 6.0)


@pytest.mark.parametrize("code", ["22P02", "42501", "XX000"])
def test_other_errors_are_not_tried_again(code: str) -> None:
    """An error that a retry cannot solve is raised at once and unchanged."""
    tries: list[int] = []

    def fails() -> None:
        tries.append(1)
        raise psycopg.errors.lookup(code)

    def never(_seconds: float) -> None:
        pytest.fail("it waited")

    policy = retry_policy(RetrySettings(attempts=6, base_seconds=1.0, cap_seconds=6.0), lambda: None, never)
    with pytest.raises(psycopg.errors.lookup(code)):
        policy(fails)
    assert len(tries) == 1
