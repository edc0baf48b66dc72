"""Types that only the server knows: a value is sent as text, and the server judges it. Pure.

The server also judges a text for an array: `{a,b}` is how PostgreSQL writes one.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from etl.datasets import TYPES, Column
from etl.datasets.types import ServerType, TextType
from etl.ingestion.framing.partial import Undecoded
from etl.ingestion.transform import structures, texts
from etl.ingestion.transform.conversions import escape
from etl.ingestion.transform.rules import Convert, Rules, convert_none
from etl.ingestion.transform.tokens import each_accepted
from etl.ingestion.values import Misfit

_MOST_DIMENSIONS = 6


def rules(column: Column, type_: ServerType) -> Rules:
    """Return the rules of a column whose values the server judges."""
    text = TYPES["text"]
    assert isinstance(text, TextType)  # noqa: S101 - as its name says
    of_text = texts.rules(column, text)
    if type_.form == "text":
        return of_text
    convert: Convert = structures.converted_json
    if type_.form == "vector":
        convert = _vector(of_text.convert, type_)
    elif type_.form != "json":
        convert = _array(of_text.convert, _WRITERS[type_.form](type_))
    # The tokens of these columns are converted one by one, as the checked path does it (`acceptance.is_converted`).
    return Rules(convert=convert, convert_all=convert_none, accept=each_accepted(lambda _token: None))


def _array(convert_text: Convert, write: Callable[[list[Any]], str]) -> Convert:
    """Return the conversion of arrays by a function that writes them; any other value is text."""

    def convert(value: Any) -> str:
        value = value.decoded() if isinstance(value, Undecoded) else value
        if isinstance(value, dict):
            raise Misfit("22P02", "expected an array, got an object: the type of objects is jsonb")
        if not isinstance(value, list):
            return convert_text(value)
        return escape(write(value))

    return convert


def _vector(convert_text: Convert, type_: ServerType) -> Convert:
    """Return the conversion of vectors: an array of numbers is written as JSON writes it."""
    from etl.ingestion.transform.vectors import Judge  # noqa: PLC0415 - most definitions have no vector

    judge = Judge(type_)

    def write(elements: list[Any]) -> str:
        judge.require_fit(elements)
        return structures.encoded(elements)

    def convert_array_or_text(value: Any) -> str:
        if isinstance(value, str) and value.lstrip().startswith("["):
            judge.require_text_fits(value)
        return convert_array(value)

    convert_array = _array(convert_text, write)
    return convert_array_or_text


def _array_text(elements: list[Any], delimiter: str, dimension: int) -> str:
    """Return an array as PostgreSQL writes it; an array in it is a further dimension."""
    if dimension > _MOST_DIMENSIONS:
        raise Misfit("54000", f"expected an array of at most {_MOST_DIMENSIONS} dimensions")
    texts_of_elements = (_element(element, delimiter, dimension) for element in elements)
    return "{" + delimiter.join(texts_of_elements) + "}"


def _element(value: Any, delimiter: str, dimension: int) -> str:
    value = value.decoded() if isinstance(value, Undecoded) else value
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return _array_text(value, delimiter, dimension + 1)
    return structures.quoted_element(structures.json_text(value))


def _documents(elements: list[Any]) -> str:
    """Return an array of JSON as PostgreSQL writes it; an array in it is an element."""
    texts_of_elements = (
        "NULL" if element is None else structures.quoted_element(structures.encoded(element)) for element in elements
    )
    return "{" + ",".join(texts_of_elements) + "}"


_WRITERS: Final[Mapping[str, Callable[[ServerType], Callable[[list[Any]], str]]]] = {
    "array": lambda type_: lambda value: _array_text(value, type_.delimiter, 1),
    "documents": lambda _: _documents,
}
