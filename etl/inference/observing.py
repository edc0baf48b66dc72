"""Observations of the values at each place of the records: their number, their types and their forms. Pure.

Memory is bounded for any records: by the number of places, of compared values, and of kept texts.
"""

from collections import Counter
from decimal import Decimal
from typing import Any

from etl.inference.forms import SHORT, forms_of, forms_of_short
from etl.inference.wrapping import wrapping_of
from etl.ingestion.framing.partial import Undecoded
from etl.ingestion.transform.wrappings import unwrapped

MAX_LEVELS = 16
MAX_MEMBERS = 1_000
MAX_PLACES = 5_000
"""Objects that are deeper, have more members, or would add more places stay whole."""

MAX_COMPARED = 500_000
"""Values kept at once, over all places, to detect whether a place has a value twice."""

_TEXTS_KEPT = 4
_WORDS_KEPT = 50
_UNKNOWN = frozenset({"other", "comma", "comma_groups", "point_groups", "clock"})
"""Forms of texts that are shown as examples where the others are numbers or times."""

_TEXT_COMPARED = 200
"""A longer text identifies nothing."""


class Budget:
    """The places and compared values that may still be kept."""

    def __init__(self) -> None:
        self.places = MAX_PLACES
        self.values = MAX_COMPARED


class Texts:
    """The texts at one place: their lengths, their forms, and a few of no known form."""

    def __init__(self) -> None:
        self.count = 0
        self.shortest = 1 << 62
        self.longest = 0
        self.least = ""
        self.most = ""
        self.forms: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        self.none_words: set[str] = set()
        self.has_padded = False

    def add(self, text: str) -> None:
        """Add one text."""
        forms = forms_of_short(text) if len(text) <= SHORT else forms_of(text)
        if not self.count or text < self.least:
            self.least = text[:_TEXT_COMPARED]
        if text > self.most:
            self.most = text[:_TEXT_COMPARED]
        self.count += 1
        self.shortest = min(self.shortest, len(text))
        self.longest = max(self.longest, len(text))
        for form in forms:
            self.forms[form] += 1
        if forms == ("none",):
            self.none_words.add(text)
        elif forms[0] in _UNKNOWN and (text in self.words or len(self.words) < _WORDS_KEPT):
            self.words[text[:_TEXT_COMPARED]] += 1

    def merge(self, other: "Texts") -> None:
        """Add the texts of another place."""
        if other.count:
            self.least = min(self.least, other.least) if self.count else other.least
            self.most = max(self.most, other.most)
        self.count += other.count
        self.shortest = min(self.shortest, other.shortest)
        self.longest = max(self.longest, other.longest)
        self.forms += other.forms
        for word, count in other.words.items():
            if word in self.words or len(self.words) < _WORDS_KEPT:
                self.words[word] += count
        self.none_words |= other.none_words
        self.has_padded = self.has_padded or other.has_padded

    @property
    def values(self) -> int:
        """The number of texts that are not a word for no value."""
        return self.count - self.forms["none"]

    @property
    def examples(self) -> list[str]:
        """The first few texts that are neither plain numbers nor times."""
        return list(self.words)[:_TEXTS_KEPT]

    @property
    def has_few_words(self) -> bool:
        """Whether the texts of no known form are a few words that repeat."""
        return len(self.words) <= _WORDS_KEPT // 5


class Numbers:
    """The numbers at one place: how many are whole as written, and the range of all."""

    def __init__(self) -> None:
        self.count = 0
        self.whole = 0
        self.least: int | Decimal = 0
        self.most: int | Decimal = 0

    def add(self, number: int | Decimal) -> None:
        """Add one number."""
        if not self.count or number < self.least:
            self.least = number
        if not self.count or number > self.most:
            self.most = number
        self.count += 1
        self.whole += type(number) is int

    def merge(self, other: "Numbers") -> None:
        """Add the numbers of another place."""
        if other.count:
            self.least = min(self.least, other.least) if self.count else other.least
            self.most = max(self.most, other.most) if self.count else other.most
        self.count += other.count
        self.whole += other.whole


class Distinct:
    """Whether values differ from one another: keeps their hashes until one comes twice or the budget is used up."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._hashes: set[int] | None = set()
        self.is_complete = True

    @property
    def is_unique(self) -> bool:
        """Tell whether no value came twice among those that were compared."""
        return self._hashes is not None

    def add(self, value: str | int) -> None:
        """Compare one value with the values before it."""
        if self._hashes is None or not self.is_complete:
            return
        digest = hash(str(value))
        if digest in self._hashes or (isinstance(value, str) and len(value) > _TEXT_COMPARED):
            self.forget()
        elif not self._budget.values:
            self.is_complete = False
        else:
            self._hashes.add(digest)
            self._budget.values -= 1

    def forget(self) -> None:
        """Stop to compare: the values identify nothing."""
        if self._hashes is not None:
            self._budget.values += len(self._hashes)
            self._hashes = None


class Observation:
    """The values at one place: a member of all records, or the elements of an array.

    `members` are the members of its objects in the order of their first occurrence, `elements` are the elements of its
    arrays. Both are empty if `is_whole`: the place has too many parts. `distinct` is None where a record can have
    several values. `wrapped` are the values within objects of extended JSON, by its name, and `wrappings` how many of
    the objects are such.
    """

    def __init__(self, budget: Budget, *, level: int = 0, is_single: bool = True) -> None:
        self.count = self.nulls = self.booleans = self.trues = self.objects = self.arrays = 0
        self.empty_arrays = self.empty_objects = 0
        self.texts = Texts()
        self.numbers = Numbers()
        self.members: dict[str, Observation] = {}
        self.elements: Observation | None = None
        self.is_whole = False
        self.distinct = Distinct(budget) if is_single else None
        self.most_elements = 0
        self.wrapped: dict[str, Observation] = {}
        self.wrappings = 0
        self._rows: Observation | None = None
        self._level = level
        self._budget = budget

    def add(self, value: Any) -> None:
        """Add one value."""
        self.count += 1
        kind = type(value)
        if kind is str:
            self.texts.add(value)
            self._compare(value)
        elif kind is int or kind is Decimal:
            self.numbers.add(value)
            self._compare(value if kind is int else None)
        elif value is None:
            self.nulls += 1
            self._compare(None)
        elif kind is bool:
            self.booleans += 1
            self.trues += value
            self._compare(None)
        else:
            self._compare(None)
            self._add_parts(value)

    def _compare(self, value: str | int | None) -> None:
        if self.distinct is not None:
            if value is None or value == "":
                self.distinct.forget()
            else:
                self.distinct.add(value)

    def _add_parts(self, value: dict[str, Any] | list[Any] | Undecoded) -> None:
        if isinstance(value, Undecoded):
            is_shallow = self._level < MAX_LEVELS and not self.is_whole
            value = value.decoded() if is_shallow else [] if value.is_array else {}
        if isinstance(value, dict):
            self.objects += 1
            self.empty_objects += not value
            if len(value) <= 2 and (wrapping := wrapping_of(value)):
                self._add_wrapped(wrapping, value)
            for name, inner in value.items():
                if self.is_whole:
                    break
                member = self.members.get(name) or self._new(name)
                if member:
                    member.add(inner)
            return
        self.arrays += 1
        self.empty_arrays += not value
        self.most_elements = max(self.most_elements, len(value))
        if value and self.elements is None and not self.is_whole:
            self.elements = self._place(is_single=False)
        if self.elements:
            for element in value:
                self.elements.add(element)

    def _add_wrapped(self, name: str, value: dict[str, Any]) -> None:
        self.wrappings += 1
        inner = self.wrapped.get(name)
        if inner is None:
            is_single = self.distinct is not None
            inner = self.wrapped[name] = Observation(self._budget, level=MAX_LEVELS, is_single=is_single)
        inner.add(unwrapped(name)(value))

    def scalars(self) -> "Observation":
        """Return a place with all values of this one that are neither objects nor arrays."""
        place = Observation(self._budget, level=MAX_LEVELS, is_single=False)
        place.texts.merge(self.texts)
        place.numbers.merge(self.numbers)
        place.nulls, place.booleans, place.trues = self.nulls, self.booleans, self.trues
        place.count = self.count - self.objects - self.arrays
        return place

    def merge(self, other: "Observation") -> None:
        """Add the values of another place. They are not compared with one another any more."""
        for name in (
            "count",
            "nulls",
            "booleans",
            "trues",
            "objects",
            "arrays",
            "empty_arrays",
            "empty_objects",
            "wrappings",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.texts.merge(other.texts)
        self.numbers.merge(other.numbers)
        self.is_whole = self.is_whole or other.is_whole
        self.most_elements = max(self.most_elements, other.most_elements)
        if self.distinct and other.count:
            self.distinct.forget()
        for name, member in other.members.items():
            if name in self.members:
                self.members[name].merge(member)
            else:
                self.members[name] = member
        for name, inner in other.wrapped.items():
            if name in self.wrapped:
                self.wrapped[name].merge(inner)
            else:
                self.wrapped[name] = inner
        if other.elements and self.elements:
            self.elements.merge(other.elements)
        self.elements = self.elements or other.elements

    def rows(self) -> "Observation | None":
        """Return the place of the child rows: the elements of the arrays, and the objects that are alone."""
        if not self.objects or self._rows:
            return self._rows or self.elements
        rows = Observation(self._budget, level=self._level, is_single=False)
        if self.elements:
            rows.merge(self.elements)
        alone = Observation(self._budget, level=self._level, is_single=False)
        alone.count = alone.objects = self.objects - self.empty_objects
        alone.members = self.members
        rows.merge(alone)
        self._rows = rows
        return rows

    def _new(self, name: str) -> "Observation | None":
        place = self._place(is_single=self.distinct is not None) if len(self.members) < MAX_MEMBERS else None
        if place is None:
            self._keep_whole()
        else:
            self.members[name] = place
        return place

    def _place(self, *, is_single: bool) -> "Observation | None":
        if self._level >= MAX_LEVELS or not self._budget.places:
            self.is_whole = True
            return None
        self._budget.places -= 1
        return Observation(self._budget, level=self._level + 1, is_single=is_single)

    def _keep_whole(self) -> None:
        """Ignore the members from now on, and return their part of the budget."""
        self.is_whole = True
        for member in self.members.values():
            member.forget()
        self._budget.places += len(self.members)
        self.members = {}

    def forget(self) -> None:
        """Return the whole part of the budget that the place uses."""
        self._keep_whole()
        if self.distinct:
            self.distinct.forget()

    @property
    def values(self) -> int:
        """The values that are not null."""
        return self.count - self.nulls

    @property
    def is_object_with_members(self) -> bool:
        """Whether all values are objects, and have members."""
        return self.objects == self.count and bool(self.members)
