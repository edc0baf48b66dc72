"""The kind of the values at one place: a column with its type and options, child rows, or columns of their own. Pure.

Uncertain values become text or jsonb, which lose nothing; a remark says what the user should check.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from etl.datasets import Type
from etl.inference import times, vocabulary
from etl.inference.forms import FLAGS
from etl.inference.observing import Numbers, Observation

ValueShape = Literal["value", "members", "rows"]

_BIGINT = (-(1 << 63), (1 << 63) - 1)
_BIGINT_DIGITS = 18

_MAP_MEMBERS = 20
_MAP_SHARE = 0.2
"""An object with many members, each of them in few of the objects: the names of its members are data, too."""

_FEWEST_NAMES = 3

_MOST = 0.5
_SOME = 0.1
"""A column gets a type if most values fit it, or if some fit it and the others are a few repeated words."""

_CODE_DIGITS = 8
"""Texts of digits that all have the same length, of at least so many digits, are codes and not numbers."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The part of a definition that a place becomes.

    `has_misfits`: some values do not fit the type, and need a column of their own.

    `options` are options of the column beside its type. `none` are the values that mean none where the others are
    objects: they also end the way to the values in these objects.
    """

    type: Type = "jsonb"
    shape: ValueShape = "value"
    null_if: tuple[Any, ...] = ()
    formats: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    has_misfits: bool = False
    none: tuple[Any, ...] = ()
    remark: str = ""


def kind_of(place: Observation, name: str) -> Kind:
    """Return the kind of the values at a place of this name."""
    if unwrapped := _unwrapped(place, name):
        return unwrapped
    if place.objects or place.arrays:
        return _structure(place, name)
    if not place.values:
        return Kind(type="text", remark="always null")
    none: tuple[Any, ...] = tuple(sorted(place.texts.none_words))
    if place.booleans and (place.trues or place.booleans == place.values):
        return _flags(place, none)
    if place.booleans:
        kind = _kind_of_scalars(place, name)
        return replace(kind, null_if=(False, *kind.null_if), remark=_joined("false means none", kind.remark))
    return _kind_of_scalars(place, name)


def _joined(*remarks: str) -> str:
    return "; ".join(filter(None, remarks))


def _kind_of_scalars(place: Observation, name: str) -> Kind:
    """Return the kind of numbers and texts."""
    none = tuple(sorted(place.texts.none_words))
    kind = _numbers(place, name) if place.numbers.count else _texts(place, name)
    return kind if kind.type in {"text", "jsonb"} or kind.null_if else replace(kind, null_if=none)


def _flags(place: Observation, none: tuple[Any, ...]) -> Kind:
    """Return the kind of a place with true or false, and perhaps words or numbers that mean the same."""
    texts, numbers = place.texts, place.numbers
    words = _words_of_flags(place)
    are_flags = words is not None and numbers.whole == numbers.count and _is_within(numbers, (0, 1))
    if words is None or not are_flags:
        return Kind(type="text", remark="true or false, and other values")
    by_number = [number for number in (0, 1) if numbers.count and number in {numbers.least, numbers.most}]
    true = [word for word in words if FLAGS[word.lower()]] + [number for number in by_number if number]
    false = [word for word in words if not FLAGS[word.lower()]] + [number for number in by_number if not number]
    options = {name: tuple(own) for name, own in (("true", true), ("false", false)) if own}
    return Kind(type="boolean", null_if=none if texts.count else (), options=options)


def _words_of_flags(place: Observation) -> list[str] | None:
    """Return the words for true and false but `true` and `false` themselves; None: there are other texts."""
    texts = place.texts
    counted = texts.forms["boolean"] + sum(texts.words.values())
    if counted != texts.values or not all(word.lower() in FLAGS for word in texts.words):
        return None
    return sorted(texts.words)


def _unwrapped(place: Observation, name: str) -> Kind | None:
    """Return the kind of values in extended JSON; None: not all objects of the place are such."""
    if not place.wrappings or place.arrays or place.wrappings != place.objects or len(place.wrapped) != 1:
        return None
    [(wrapping, inner)] = place.wrapped.items()
    if place.objects == place.values:
        kind = kind_of(inner, name)
    else:
        both = place.scalars()
        both.merge(inner)
        kind = kind_of(both, name)
    if kind.shape != "value" or (kind.type == "jsonb" and inner.objects):
        return None
    remark = _joined("MongoDB's JSON" if wrapping == "mongo" else "DynamoDB's JSON", kind.remark)
    return replace(kind, options={**kind.options, "unwrap": wrapping}, remark=remark)


def _structure(place: Observation, name: str) -> Kind:  # noqa: PLR0911 - one for each mixture of values
    if place.is_whole:
        return Kind(remark="too many members or levels for columns")
    others = place.values - place.objects - place.arrays
    none = _none_beside(place)
    if place.objects and place.arrays > place.empty_arrays:
        return _one_or_many(place)
    if place.objects:
        has_only_none = others == len_of_none(place)
        if has_only_none and (none or place.objects == place.values):
            return replace(_object(place), none=none)
        return Kind(remark="objects or arrays, and other values")
    if others == len_of_none(place) and place.elements and _array(place).shape == "rows":
        is_skipped = place.texts.none_words <= {""}
        return _array(place) if is_skipped else Kind(remark="objects or arrays, and other values")
    if not others:
        return _array(place)
    if place.arrays == place.empty_arrays and place.arrays:
        kind = _without_arrays(place, name)
        if kind:
            return kind
    return Kind(remark="objects or arrays, and other values")


def len_of_none(place: Observation) -> int:
    """Return how many scalars of a place mean no value beside objects or arrays: false, and words."""
    return (place.booleans - place.trues) + place.texts.forms["none"]


def _none_beside(place: Observation) -> tuple[Any, ...]:
    """Return the values that mean none beside objects."""
    none: list[Any] = [False] if place.booleans > place.trues else []
    none += sorted(place.texts.none_words)
    return (*none, *([()] if place.empty_arrays else []))


def _without_arrays(place: Observation, name: str) -> Kind | None:
    """Return the kind of scalars beside which an empty array means none."""
    kind = kind_of(place.scalars(), name)
    if kind.type in {"jsonb", "text[]"} or kind.shape != "value":
        return None
    return replace(kind, null_if=(*kind.null_if, ()), remark=_joined("an empty array means none", kind.remark))


def _one_or_many(place: Observation) -> Kind:
    """Return the kind of objects where other records have arrays of them: child rows, if all are alike."""
    elements = place.elements
    has_others = place.values - place.objects - place.arrays != len_of_none(place)
    if has_others or not place.texts.none_words <= {""} or elements is None or not elements.is_object_with_members:
        return Kind(remark="objects or arrays, and other values")
    return Kind(shape="rows", remark="one object, or an array of them")


def _object(place: Observation) -> Kind:
    if not place.members:
        return Kind(remark="always an empty object")
    names = list(place.members)
    mean = sum(member.count for member in place.members.values()) / len(names)
    if len(names) >= _MAP_MEMBERS and mean < _MAP_SHARE * place.objects:
        return Kind(remark=f"{len(names):,} different members, few of them in one object")
    if is_map(place):
        return Kind(remark=f"{len(names):,} different members whose names are data")
    return Kind(shape="members")


def is_map(place: Observation) -> bool:
    """Return whether the names of the members of objects are data: ids, days or codes, with values that are alike."""
    names = list(place.members)
    if len(names) < _FEWEST_NAMES or _are_fixed(place) or not vocabulary.are_data(names):
        return False
    return len({_shape(member) for member in place.members.values() if member.values}) <= 1


def _are_fixed(place: Observation) -> bool:
    """Return whether many objects all have the same members: their names are no data then."""
    return place.objects >= _MAP_MEMBERS and all(member.count == place.objects for member in place.members.values())


def _shape(place: Observation) -> str:
    """Return a word for the values of a place, to compare members with one another."""
    if place.objects:
        return "object"
    if place.arrays:
        return "array"
    return "number" if place.numbers.count else "text" if place.texts.count else "boolean"


def _array(place: Observation) -> Kind:
    elements = place.elements
    if elements is None:
        return Kind(remark="always an empty array")
    if elements.is_object_with_members:
        return Kind(shape="rows")
    if elements.texts.count + elements.nulls == elements.count:
        return Kind(type="text[]", remark=f"up to {place.most_elements:,} texts")
    return Kind(remark=f"an array of up to {place.most_elements:,} values")


def _numbers(place: Observation, name: str) -> Kind:
    """Return the kind of a place with numbers, and perhaps texts."""
    numbers, texts = place.numbers, place.texts
    in_quotes = texts.forms["integer"] + texts.forms["numeric"]
    is_whole = numbers.whole == numbers.count and not texts.forms["numeric"]
    is_short = _is_within(numbers, _BIGINT) and (not in_quotes or texts.longest <= _BIGINT_DIGITS)
    number: Type = "bigint" if is_whole and is_short else "numeric"
    if number == "bigint" and vocabulary.is_measure(name):
        number = "numeric"
    if not texts.values and not texts.has_padded:
        if moment := times.of_numbers(numbers, name):
            return Kind(type=moment.type, formats=moment.formats, options=moment.options, remark=moment.remark)
        return Kind(type=number)
    if texts.forms["padded"] or texts.has_padded:
        return Kind(type="text", remark="numbers, and texts of digits that begin with 0")
    if in_quotes == texts.values:
        return Kind(type=number, remark="some of the numbers are in quotes")
    if _is_enough(numbers.count + in_quotes, place):
        return Kind(type="numeric", has_misfits=True)
    return Kind(type="text", remark="numbers and texts")


def _is_within(numbers: Numbers, bounds: tuple[int, int]) -> bool:
    return bounds[0] <= numbers.least and numbers.most <= bounds[1]


def _texts(place: Observation, name: str) -> Kind:  # noqa: PLR0911 - one for each family of forms
    """Return the kind of a place with texts only."""
    texts = place.texts
    if not texts.values:
        return Kind(type="text")
    if moment := times.of_texts(texts, name):
        return Kind(type=moment.type, formats=moment.formats, options=moment.options, remark=moment.remark)
    if texts.forms["integer"] + texts.forms["numeric"] == texts.values:
        return _numbers_in_quotes(place, name)
    if (
        texts.forms["padded"]
        and texts.forms["padded"] + texts.forms["integer"] + texts.forms["numeric"] == texts.values
    ):
        return Kind(type="text", remark="digits, of which some begin with 0")
    if kind := _numbers_of_a_country(place):
        return kind
    if texts.forms["boolean"] == texts.values:
        return Kind(type="boolean")
    if texts.forms["json"] == texts.values:
        return Kind(type="jsonb", options={"json": True}, remark="JSON held in text")
    if (words := _words_of_flags(place)) and len({FLAGS[word.lower()] for word in words}) > 1:
        return _flags(place, tuple(sorted(texts.none_words)))
    found = times.mostly(texts, lambda fitting: _is_enough(fitting, place))
    if found.type == "text":
        return Kind(type="text", remark=found.remark)
    return Kind(type=found.type, formats=found.formats, options=found.options, has_misfits=True)


def _numbers_in_quotes(place: Observation, name: str) -> Kind:
    texts = place.texts
    if texts.has_padded:
        return Kind(type="text", remark="digits, of which some begin with 0 further on")
    is_code = texts.shortest >= _CODE_DIGITS and texts.shortest == texts.longest and not texts.forms["numeric"]
    is_named_code = vocabulary.is_code(name) and not texts.forms["numeric"]
    if is_code or is_named_code or vocabulary.is_version(name):
        return Kind(type="text", remark="digits, kept as text")
    is_short = texts.longest <= _BIGINT_DIGITS and not texts.forms["numeric"]
    return Kind(type="bigint" if is_short else "numeric", remark="numbers in quotes")


def _numbers_of_a_country(place: Observation) -> Kind | None:
    """Return the kind of numbers with a decimal comma, or with commas between groups of digits, or None."""
    forms, values = place.texts.forms, place.texts.values
    if place.texts.has_padded or forms["padded"]:
        return None
    certain = forms["comma"] - forms["comma_groups"]
    with_comma = forms["comma"] + forms["integer"] + forms["point_groups"]
    if forms["comma"] and with_comma == values and (certain > 0 or forms["point_groups"]):
        return Kind(type="numeric", options={"decimal": ","}, remark="decimals after a comma")
    plain = forms["comma_groups"] + forms["integer"] + forms["numeric"]
    if forms["comma_groups"] and plain == values and forms["comma_groups"] > forms["comma"]:
        return Kind(type="numeric", options={"decimal": "."}, remark="commas between groups of digits")
    if forms["comma"] and forms["comma"] + forms["integer"] == values:
        return Kind(type="text", remark='numbers: give decimal = "," or decimal = ".", and type numeric')
    return None


def _is_enough(fitting: int, place: Observation) -> bool:
    """Return whether enough values fit a type: most of them, or some where the others are a few words."""
    values = place.values - place.texts.forms["none"]
    if fitting >= values * _MOST and fitting:
        return True
    return fitting > values * _SOME and place.texts.has_few_words
