"""Where the records of a source are, detected from its first bytes. Pure: knows the shapes of JSON, and no file.

The array of business objects is chosen, by names and sizes, and not the longest list of what describes the document. A
document that is one object with an identity of its own stays one record.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from etl.errors import UsageError
from etl.inference import vocabulary
from etl.inference.reshaping import require_objects
from etl.inference.skeleton import Node, Skeleton, skeleton_of
from etl.ingestion.framing.boundaries import NotJSON, value_end
from etl.ingestion.framing.documents import BOM

_LONGEST_PATH = 50
"""A path of more names is not proposed: each level would keep the names of all levels around it."""

_FEWEST_KEYED = 2
_SHARE_OF_RECORDS = 0.6
_MANY = 100
"""A list of so many objects has records of its own, whatever is beside it."""

_META_WEIGHT = 0.01
_RECORDS_WEIGHT = 20
_LOOKUP_WEIGHT = 0.1
"""How much the name of a list counts beside its size."""

_LIST_BYTES = 1 << 16
"""The beginning of an array, or of records that follow one another, in which pages and rows are looked for."""


@dataclass(frozen=True, kw_only=True)
class RecordPath:
    """The path of one record, and a reason for it in words."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A place that may hold the records, and the objects on the way to it."""

    names: tuple[str, ...]
    node: Node
    around: tuple[Node, ...]
    shape: Literal["array", "members", "arrays"]

    @property
    def records(self) -> Node:
        """The place of its records."""
        merged = self.node.elements if self.shape == "array" else next(iter(self.node.members.values()))
        if self.shape == "arrays" and merged is not None:
            merged = merged.elements
        return merged or self.node

    @property
    def count(self) -> int:
        """The number of its records."""
        return self.records.values if self.shape == "array" else len(self.node.members)

    @property
    def is_meta(self) -> bool:
        """Whether its names say that it describes the document."""
        return any(map(vocabulary.is_meta, self.names))

    @property
    def is_of_records(self) -> bool:
        """Whether its names say that it has records of their own."""
        return any(map(vocabulary.names_records, self.names[-1:]))

    @property
    def weight(self) -> float:
        """How likely it holds the records, in relation to others."""
        if self.is_meta:
            return self.node.size * _META_WEIGHT
        if self.is_of_records:
            return self.node.size * _RECORDS_WEIGHT
        return self.node.size * (_LOOKUP_WEIGHT if any(map(vocabulary.is_lookup, self.names[-1:])) else 1)

    @property
    def found(self) -> RecordPath:
        """The path of its records."""
        where = ".".join(self.names)
        place = f"the object at {where}" if where else "the document"
        if self.shape == "array":
            return RecordPath(path=f"{where}.item", reason=f"the elements of the array at {where}")
        if self.shape == "members":
            path = ".".join([*self.names, "*"])
            return RecordPath(path=path, reason=f"the members of {place}, each under its key")
        path = ".".join([*self.names, "*.item"])
        return RecordPath(path=path, reason=f"the elements of the arrays that are members of {place}")


def find_records(head: bytes, *, is_all_there_is: bool = True) -> RecordPath:
    """Return the path of the records.

    `is_all_there_is`: no longer beginning can be had. Raises UsageError if the beginning of one large document does not
    show the path, SourceError with the command that helps if the records are arrays of values.
    """
    data = head.removeprefix(BOM).lstrip()
    if data[:1] != b"{":
        return _in_list(skeleton_of(data[:_LIST_BYTES]))
    first = skeleton_of(data[:_LIST_BYTES])
    if first.root.values > 1:
        return _in_lines(first.root)
    skeleton = skeleton_of(data) if first.is_cut and len(data) > _LIST_BYTES else first
    if skeleton.root.values > 1:
        return _in_lines(skeleton.root)
    if skeleton.is_cut and not next(_candidates(skeleton.root, (), ()), None) and _is_faulty(data):
        return RecordPath(path="item", reason="records that follow one another")
    found = _in_document(skeleton, is_certain=is_all_there_is or not skeleton.is_cut)
    if found is None:
        raise UsageError(
            "expected an array of objects near the beginning of the document, found none",
            hint="name the path of one record by --records, as in shipments.item",
        )
    return found


def _is_faulty(data: bytes) -> bool:
    """Return whether a beginning has a place that is not JSON: lines have such records, and others after them."""
    try:
        value_end(data.decode("latin-1"), 0)
    except NotJSON as error:
        return not error.cut_off
    return False


def _in_list(skeleton: Skeleton) -> RecordPath:
    """Return the path of the elements of an array, or of the records of its elements, if these are pages."""
    array = skeleton.root
    require_objects(array, (), is_cut=skeleton.is_cut)
    if array.elements and (name := _records_of_pages(array.elements)):
        return RecordPath(path=f"item.{name}.item", reason=f"the elements of {name} on each page of the array")
    return RecordPath(path="item", reason="the elements of the array")


def _in_lines(documents: Node) -> RecordPath:
    if name := _records_of_pages(documents):
        return RecordPath(path=f"{name}.item", reason=f"the elements of {name} on each page")
    return RecordPath(path="item", reason="records that follow one another")


def _records_of_pages(page: Node) -> str | None:
    """Return the name of the only list of objects in a page, which has nothing else but the numbers of pages."""
    lists = [name for name, member in page.members.items() if member.is_list_of_objects]
    others = {name: member for name, member in page.members.items() if name not in lists}
    inner = [name for member in others.values() if member.is_object for name in member.members]
    if len(lists) != 1 or not _is_name(lists[0]) or not any(map(vocabulary.is_of_page, [*others, *inner])):
        return None
    are_of_list = all(vocabulary.is_of_envelope(name) or vocabulary.is_meta(name) for name in others)
    return lists[0] if are_of_list else None


def _in_document(skeleton: Skeleton, *, is_certain: bool) -> RecordPath | None:
    """Return the path of the records in one document; None: it is not to be seen, or not certain yet."""
    document = skeleton.root
    candidates = sorted(_candidates(document, (), ()), key=lambda each: -each.weight)
    of_business = [each for each in candidates if not each.is_meta]
    if not is_certain and not of_business:
        return None
    require_objects(document, (), is_cut=skeleton.is_cut, largest=of_business[0].node.size if of_business else 0)
    whole = None if skeleton.is_cut else RecordPath(path="item", reason="the document is one record")
    if of_business:
        best = of_business[0]
        return whole if whole and _is_record(document, best, of_business[1:]) else best.found
    if whole and (not candidates or _has_own_values(document)):
        return whole
    return candidates[0].found if candidates else whole


def _candidates(node: Node, names: tuple[str, ...], around: tuple[Node, ...]) -> Iterator[_Candidate]:
    """Yield the lists of objects, and the objects whose members are records, below an object."""
    if not node.is_object or len(names) >= _LONGEST_PATH or not all(map(_is_name, names)):
        return
    shape = _shape_of_members(node)
    if shape:
        yield _Candidate(names=names, node=node, around=around, shape=shape)
        return
    for name, member in node.members.items():
        if member.is_list_of_objects:
            if _is_name(name):
                yield _Candidate(names=(*names, name), node=member, around=(*around, node), shape="array")
        else:
            yield from _candidates(member, (*names, name), (*around, node))


def _is_name(name: str) -> bool:
    """Return whether a path of records can spell a name."""
    return bool(name) and "." not in name and name != "*"


def _shape_of_members(node: Node) -> Literal["members", "arrays"] | None:
    """Return whether the members of an object are records under their keys, or lists of them; None: neither."""
    members = [member for member in node.members.values() if member.values > member.nulls]
    if len(members) < _FEWEST_KEYED or node.objects > 1 or not vocabulary.are_data(list(node.members)):
        return None
    if all(member.is_object for member in members):
        return "members" if _are_alike(members) else None
    if all(member.is_list_of_objects or (member.is_array and not member.elements) for member in members):
        elements = [member.elements for member in members if member.elements]
        return "arrays" if elements and _are_alike(elements) else None
    return None


def _are_alike(objects: list[Node]) -> bool:
    """Return whether objects have nearly the same members. The last one may be cut off."""
    names = [set(each.members) for each in objects]
    complete = names[:-1] if len(names) > _FEWEST_KEYED else names
    return 2 * len(set.intersection(*complete)) >= len(set.union(*names))


def _is_record(document: Node, best: _Candidate, others: list[_Candidate]) -> bool:
    """Return whether a whole document is one record, although it has a list of objects."""
    if best.count >= _MANY:
        return False
    if any(set(other.records.members) == set(best.records.members) for other in others):
        return True
    if best.is_of_records:
        return False
    if any(_has_identity(node) for node in best.around):
        return True
    return best.node.size < _SHARE_OF_RECORDS * _business_size(document)


def _has_identity(node: Node) -> bool:
    """Return whether an object has a scalar that may identify it."""
    return any(member.scalars and vocabulary.identifies(name) for name, member in node.members.items())


def _has_own_values(node: Node) -> bool:
    """Return whether an object has scalars that do not belong to a list, itself or in the objects in it."""
    return any(
        (member.scalars and not vocabulary.is_of_envelope(name))
        or (member.is_object and not vocabulary.is_meta(name) and _has_own_values(member))
        for name, member in node.members.items()
    )


def _business_size(node: Node) -> int:
    """Return the values of an object without those that describe a document."""
    return sum(
        (_business_size(member) if member.is_object else member.size)
        for name, member in node.members.items()
        if not vocabulary.is_meta(name) and not (member.size == member.values and vocabulary.is_of_envelope(name))
    )
