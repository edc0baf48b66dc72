"""The types of columns that only the server knows, by their names: `inet`, `uuid[]`, `geometry(Point,4326)`, a domain.

Reads names, and asks no server: whether a type exists is judged where a table is made or loaded.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Literal

from etl.datasets.types import ServerType

_WORD = r'(?:[^\W\d][\w$]*|"(?:[^"\0%{}]|"")+")'
_NAME = rf"{_WORD}(?:\.{_WORD})?"
_SIZE = r"(?:\( *[\w-]+(?: *, *[\w-]+)* *\))"
_SEVERAL_WORDS = (
    r"double +precision",
    rf"(?:character|char|nchar|bit) +varying *{_SIZE}?",
    rf"national +char(?:acter)?(?: +varying)? *{_SIZE}?",
    rf"(?:time|timestamp) *{_SIZE}? +with(?:out)? +time +zone",
    rf"interval(?: +(?:year|month|day|hour|minute|second))(?: +to +(?:month|hour|minute|second))? *{_SIZE}?",
)
_TYPE = re.compile(rf"(?:{'|'.join(_SEVERAL_WORDS)}|{_NAME} *{_SIZE}?)((?: *\[[0-9]*\])*)", re.IGNORECASE)

_DELIMITERS: Final = {"box": ";", "geometry": ":", "geography": ":"}
"""Between the elements of an array of these types; elsewhere it is a comma."""

_FORMS: Final[Mapping[str, Literal["json", "vector"]]] = {"json": "json", "vector": "vector", "halfvec": "vector"}
"""The types to which a value is not sent as its own text: JSON, or an array of numbers that is written as in JSON."""


@lru_cache
def server_type(name: str) -> ServerType:
    """Return the type of the server with this name, as a statement spells it: with a schema, a size or `[]`.

    Raises ValueError if it cannot be the name of a type.
    """
    form: Literal["array", "documents"]
    match = _TYPE.fullmatch(name)
    if match is None:
        raise ValueError(f"expected the name of a type, such as inet, uuid[] or numeric(12,2), got {name!r}")
    bare = re.split(r"[(\[]", name, maxsplit=1)[0].strip().rpartition(".")[2].strip('"').lower()
    # The grammar above lets nothing pass that would end the name of the type in a statement.
    if match[1]:
        form = "documents" if bare in {"json", "jsonb"} else "array"
        return ServerType(name=name, sql=name, form=form, delimiter=_DELIMITERS.get(bare, ","))
    return ServerType(name=name, sql=name, form=_FORMS.get(bare, "text"))
