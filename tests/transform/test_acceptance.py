import pytest

from etl.ingestion.transform.acceptance import acceptor
from tests.support.definitions import Define


@pytest.mark.parametrize(
    ("options", "tokens", "suspects"),
    [
        ('type = "integer", min = 5, max = 5', [b"5", b"null", b"6", b'"5"', b"4"], {2, 4}),
        ('type = "numeric", min = 5, max = 5', [b"5", b"5.0", b"5.0000000000000000001", b"null"], {2}),
        ('type = "integer", min = -5, max = 5', [b"5", b"null", b"-6", b"6", b"0"], {2, 3}),
        ('type = "numeric", max = 2', [b"-1e3", b"null", b"2", b"2.1"], {3}),
        ('type = "numeric", above = 0', [b"0.0", b"-7", b"null", b'"0"', b"0", b"0.5", b"7"], {0, 1, 3, 4}),
        (
            'type = "integer", min = -20, max = 300',
            [b"-20", b"-21", b"300", b"301", b"null", b"-9", b'"-30"'],
            {1, 3, 6},
        ),
    ],
)
def test_numbers_at_their_limits_are_accepted(
    define: Define, options: str, tokens: list[bytes], suspects: set[int]
) -> None:
    """The tokens of a column are its fields; those beyond a limit need a closer look, also if it is the only value."""
    dataset = define(f'name = "parcels"\n[[table]]\nname = "a.b"\ncolumns = {{ c = {{ {options} }} }}')
    doubted: set[int] = set()
    assert acceptor(dataset.tables[0].columns[0])(tokens, doubted) == tokens
    assert doubted == suspects
