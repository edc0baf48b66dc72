"""Every SQLSTATE of PostgreSQL has a meaning at every stage."""

import re

import psycopg
import pytest

from etl.database import sqlstates
from etl.database.sqlstates import ENDS, TABLE, UNDEFINED, codes_of
from tests.support.faults import Connection

DEFINED = sorted(code for code in vars(psycopg.errors)["_sqlcodes"] if re.fullmatch("[0-9A-Z]{5}", code))


def test_every_class_of_postgresql_is_in_the_table() -> None:
    """No SQLSTATE that PostgreSQL defines counts as one of a trigger by accident."""
    assert len(DEFINED) > 200
    assert [code for code in DEFINED if codes_of(code) is UNDEFINED] == []
    assert codes_of("LG001") is codes_of("45000") is UNDEFINED


def test_the_longest_prefix_decides() -> None:
    """A code of its own comes before its class, and each prefix is in the table once."""
    assert (codes_of("25006").prefix, codes_of("25P02").prefix, codes_of("57014").prefix) == ("25006", "25", "57")
    assert codes_of("57P03").prefix == "57P"
    prefixes = [codes.prefix for codes in TABLE]
    assert prefixes == sorted(set(prefixes))


def test_every_meaning_has_an_end_at_every_stage() -> None:
    """The table of ends is complete: a new meaning cannot be forgotten."""
    for codes in (*TABLE, UNDEFINED):
        assert codes.connecting in ENDS["connection"]
        for stage in ("batch", "isolation", "publication", "refresh"):
            assert codes.meaning in ENDS[stage]


def test_the_isolation_block_and_the_table_agree(connection: Connection) -> None:
    """The server's regular expression for codes that are no fault of a record equals the table, code by code."""
    codes = [*DEFINED, "LG001", "45000", "ZZZZZ", "55XXX", "25P99", "57P99", "HV00N"]
    found = connection.execute(
        "select code from unnest(%s::text[]) as code where code !~ %s", [codes, sqlstates.not_of_data()]
    ).fetchall()
    assert sorted({code for (code,) in found}) == sorted({code for code in codes if sqlstates.is_of_data(code)})


@pytest.mark.parametrize(("code", "words"), [("23505", "unique violation"), ("LG001", "SQLSTATE LG001")])
def test_a_condition_has_a_name(code: str, words: str) -> None:
    """A condition is named in words; a code that PostgreSQL does not define is named by itself."""
    assert sqlstates.condition(code) == words
