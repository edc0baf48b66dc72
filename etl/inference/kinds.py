"""The kind of the values at one place: a column with its type and options, child rows, or columns of their own. Pure.

Uncertain values become text or jsonb, which lose nothing; a remark says what the user should check.
"""

from dataclasses import dataclass, replace
from typing import Literal

from etl.datasets import Type
from etl.datasets.types import INFERRED_TIMES
from etl.inference.forms import is_format
from etl.inference.identifiers import snake_case, words
from etl.inference.observing import Numbers, Observation

ValueShape = Literal["value", "members", "rows"]

_BIGINT = (-(1 << 63), (1 << 63) - 1)
_BIGINT_DIGITS = 18

_MAP_MEMBERS = 20
_MAP_SHARE = 0.2
"""An object with many members, each of them in few of the objects: the names of its members are data, too."""

_MOST = 0.5
_SOME = 0.1
"""A column gets a type if most values fit it, or if some fit it and the others are a few repeated words."""

_CODE_WORDS = words(
    """
    account barcode code ean gtin iban id imo key mawb awb mmsi no nr number num phone plz postal postcode ref
    reference scac serial sku sscc swift tel tracking unlocode upc uuid vin zip zipcode
    """
)
_MEASURE_WORDS = words(
    """
    amount balance charge cost distance fee freight height km kg l lat latitude lb length lng lon longitude m3
    mi miles price rate tax temperature total usd eur value volume weight width
    """
)
"""A measure or an amount may have a fraction later, even if no observed value has one."""

_CODE_DIGITS = 8
"""Texts of digits that all have the same length, of at least so many digits, are codes and not numbers."""

_EPOCH_WORDS = words("at date epoch time timestamp ts")
_EPOCHS = (("epoch", (946_684_800, 4_102_444_799)), ("epoch_ms", (946_684_800_000, 4_102_444_799_999)))
"""Seconds and milliseconds of the years 2000 to 2099."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a place becomes. `has_misfits`: some values do not fit the type, and need a column of their own."""

    type: Type = "jsonb"
    shape: ValueShape = "value"
    null_if: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    has_misfits: bool = False
    remark: str = ""


def kind_of(place: Observation, name: str) -> Kind:
    """Return the kind of the values at a place of this name."""
    if place.objects or place.arrays:
        return _structure(place)
    if not place.values:
        return Kind(type="text", remark="always null")
    none = tuple(sorted(place.texts.none_words))
    if place.booleans:
        if not place.numbers.count and place.texts.forms["boolean"] == place.texts.values:
            return Kind(type="boolean", null_if=none)
        return Kind(type="text", remark="true or false, and other values")
    kind = _numbers(place, name) if place.numbers.count else _texts(place, name)
    return kind if kind.type == "text" or kind.null_if else replace(kind, null_if=none)


def _structure(place: Observation) -> Kind:
    if place.is_whole:
        return Kind(remark="too many members or levels for columns")
    if place.objects == place.values:
        return _object(place)
    return _array(place) if place.arrays == place.values else Kind(remark="objects or arrays, and other values")


def _object(place: Observation) -> Kind:
    if not place.members:
        return Kind(remark="always an empty object")
    mean = sum(member.count for member in place.members.values()) / len(place.members)
    if len(place.members) >= _MAP_MEMBERS and mean < _MAP_SHARE * place.objects:
        return Kind(remark=f"{len(place.members):,} different members, few of them in one object")
    return Kind(shape="members")


def _array(place: Observation) -> Kind:
    elements = place.elements
    if elements is None:
        return Kind(remark="always an empty array")
    if elements.objects == elements.count and elements.members:
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
    if number == "bigint" and set(snake_case([name]).split("_")) & _MEASURE_WORDS:
        number = "numeric"
    if not texts.values:
        for epoch, years in _EPOCHS:
            if is_whole and _last_word(name) in _EPOCH_WORDS and _is_within(numbers, years):
                return Kind(type="timestamptz", formats=(epoch,))
        return Kind(type=number)
    if texts.forms["padded"]:
        return Kind(type="text", remark="numbers, and texts of digits that begin with 0")
    if in_quotes == texts.values:
        return Kind(type=number, remark="some of the numbers are in quotes")
    if _is_enough(numbers.count + in_quotes, place):
        return Kind(type="numeric", has_misfits=True)
    return Kind(type="text", remark="numbers and texts")


def _is_within(numbers: Numbers, bounds: tuple[int, int]) -> bool:
    return bounds[0] <= numbers.least and numbers.most <= bounds[1]


def _texts(place: Observation, name: str) -> Kind:
    """Return the kind of a place with texts only."""
    texts = place.texts
    if not texts.values:
        return Kind(type="text")
    if texts.forms["integer"] + texts.forms["numeric"] == texts.values:
        return _numbers_in_quotes(place, name)
    if texts.forms["boolean"] == texts.values:
        return Kind(type="boolean")
    for time in INFERRED_TIMES:
        if texts.forms[time] == texts.values:
            return Kind(type=time)
    for time in INFERRED_TIMES:
        # A column of one of these types cannot hold the others: a day has no time, an instant needs a zone.
        others = [other for other in INFERRED_TIMES if other != time]
        if _is_enough(texts.forms[time], place) and not any(texts.forms[other] for other in others):
            return Kind(type=time, has_misfits=True)
    return _formatted(place)


def _numbers_in_quotes(place: Observation, name: str) -> Kind:
    texts = place.texts
    is_code = texts.shortest >= _CODE_DIGITS and texts.shortest == texts.longest
    if is_code or _last_word(name) in _CODE_WORDS:
        return Kind(type="text", remark="digits, kept as text")
    is_short = texts.longest <= _BIGINT_DIGITS and not texts.forms["numeric"]
    return Kind(type="bigint" if is_short else "numeric", remark="numbers in quotes")


def _formatted(place: Observation) -> Kind:
    forms = place.texts.forms
    formats = sorted((form for form in forms if is_format(form)), key=lambda form: (-forms[form], form))
    if not formats or not _is_enough(forms[formats[0]], place):
        mixed = sum(forms[form] > 0 for form in INFERRED_TIMES) > 1
        return Kind(type="text", remark="days or instants written in several ways" if mixed else "")
    best = formats[0]
    if len(formats) > 1 and forms[formats[1]] == forms[best]:
        return Kind(type="text", remark=f"days that may be {best} or {formats[1]}: give formats, and type date")
    is_day = "%H" not in best and "%I" not in best
    has_misfits = forms[best] < place.texts.values
    return Kind(type="date" if is_day else "timestamp", formats=(best,), has_misfits=has_misfits)


def _is_enough(fitting: int, place: Observation) -> bool:
    """Return whether enough values fit a type: most of them, or some where the others are a few words."""
    values = place.values - place.texts.forms["none"]
    if fitting >= values * _MOST and fitting:
        return True
    return fitting > values * _SOME and place.texts.has_few_words


def _last_word(name: str) -> str:
    return snake_case([name]).rsplit("_", 1)[-1]
