"""Observations of the values at each place of the records: their number, their types and their forms. Pure.

Memory is bounded for any records: by the number of places, of compared values, and of kept texts.
"""

from collections import Counter
from decimal import Decimal
from typing import Any

from etl.inference.forms import forms_of
from etl.ingestion.framing.partial import Undecoded

MAX_LEVELS = 16
MAX_MEMBERS = 1_000
MAX_PLACES = 5_000
"""Objects that are deeper, have more members, or would add more places stay whole."""

MAX_COMPARED = 500_000
"""Values kept at once, over all places, to detect whether a place has a value twice."""

_TEXTS_KEPT = 4
_WORDS_KEPT = 50
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

    def add(self, text: str) -> None:
        """Add one text."""
        forms = forms_of(text)
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
        elif forms == ("other",) and (text in self.words or len(self.words) < _WORDS_KEPT):
            self.words[text[:_TEXT_COMPARED]] += 1

    @property
    def values(self) -> int:
        """The number of texts that are not a word for no value."""
        return self.count - self.forms["none"]

    @property
    def examples(self) -> list[str]:
        """The first few texts of no known form."""
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
    several values.
    """

    def __init__(self, budget: Budget, *, level: int = 0, is_single: bool = True) -> None:
        self.count = self.nulls = self.booleans = self.objects = self.arrays = 0
        self.texts = Texts()
        self.numbers = Numbers()
        self.members: dict[str, Observation] = {}
        self.elements: Observation | None = None
        self.is_whole = False
        self.distinct = Distinct(budget) if is_single else None
        self.most_elements = 0
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
            for name, inner in value.items():
                if self.is_whole:
                    break
                member = self.members.get(name) or self._new(name)
                if member:
                    member.add(inner)
            return
        self.arrays += 1
        self.most_elements = max(self.most_elements, len(value))
        if value and self.elements is None and not self.is_whole:
            self.elements = self._place(is_single=False)
        if self.elements:
            for element in value:
                self.elements.add(element)

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
