from etl.ingestion.transform.unknown import known, name_of, unknown
from etl.ingestion.values import KEY
from tests.support.definitions import Define


def test_what_a_definition_leads_to_is_known(define: Define) -> None:
    """Members on the way of a column, an array or a condition are known, and all below what a column takes."""
    dataset = define(
        """
name = "parcels"
[[table]]
name = "a.b"
where = { kind = "x" }
columns = { c = { path = "legs.0.code", type = "text" }, d = { value = "v", type = "text" }, e = "jsonb" }
[[table]]
name = "a.d"
each = ["legs", "at.stops"]
columns = { a = { path = "^.^.id", type = "text" }, b = { path = "^.no", type = "text" }, c = "text" }
""",
    )
    record = {
        "kind": "x",
        "id": 1,
        "e": {"any": [{"thing": 1}]},
        "d": 1,
        KEY: "k",
        "legs": [{"code": 1, "no": 2, "at": {"stops": [{"c": 1, "d": 2}], "by": 1}, "mode": 3}, 5],
    }
    assert list(map(name_of, unknown(record, known(dataset)))) == ["d", "legs.mode", "legs.at.by", "legs.at.stops.d"]
    whole = define('name = "parcels"\n[[table]]\nname = "a.b"\ncolumns = { raw = { path = ".", type = "jsonb" } }')
    assert known(whole) is None


def test_what_a_position_takes_is_known(define: Define) -> None:
    """All below a value that a column takes by its position is known, as below any other value."""
    dataset = define(
        """
name = "parcels"
[[table]]
name = "a.b"
[table.columns]
a = { path = "tags.0", type = "jsonb" }
b = { path = "parts.1.doc", type = "jsonb" }
c = { path = "grid.0.1", type = "jsonb" }
d = { path = "0", type = "jsonb" }
e = { path = "1.x", type = "jsonb" }
""",
    )
    record = {
        "tags": [{"x": 1}, {"y": {"z": 1}}],
        "parts": [{"doc": {"x": 1}, "kg": 1}, {"doc": [{"y": 1}]}],
        "grid": [[{"x": 1}, {"y": 1}]],
        "0": {"x": 1},
        "1": {"x": {"y": 1}, "z": 1},
        "x": 1,
    }
    assert list(map(name_of, unknown(record, known(dataset)))) == ["x", "parts.kg", '"1".z']
