"""Actions and documents as Elasticsearch's bulk API reads them -> one line for both, of the same number of bytes.

`{"index":{"_id":"1"}}` and `{"a":1}` on the next line become `{"$index":{"_id":"1"}, "a":1}`: no offset changes, and
the action is a member of its document. A `delete` has no document and stays as it is. Of an `update` the members of
`doc` are the document.
"""

import json
import re
from collections.abc import Callable, Iterator

from etl.ingestion.sources.encodings import Reader

_ACTION = re.compile(rb'\s*\{\s*"(index|create|update|delete)"\s*:\s*\{')
_OBJECT = re.compile(rb"\s*\{")
_DECODER = json.JSONDecoder()
_IS_EMPTY = re.compile(rb"\s*\}")
_METADATA = frozenset(
    (
        *("id", "index", "type", "routing", "parent"),
        *("version", "version_type", "op_type", "if_seq_no", "if_primary_term"),
        *("retry_on_conflict", "pipeline", "require_alias", "require_data_stream", "dynamic_templates"),
        *("list_executed_pipelines",),
    )
)


def is_bulk(head: bytes) -> bool:
    """Return whether a source that begins so is made of actions and documents."""
    first, _, rest = head.lstrip(b"\xef\xbb\xbf\r\n ").partition(b"\n")
    match = _ACTION.match(first)
    if match is None or not _is_action(first):
        return False
    second = rest.lstrip(b"\r\n ").partition(b"\n")[0]
    is_action = bool(_ACTION.match(second)) and _is_action(second)
    if match[1] == b"delete":
        return is_action or not second
    return bool(_OBJECT.match(second)) and not is_action


def _is_action(line: bytes) -> bool:
    """Return whether a line is an object of one action with its metadata only."""
    try:
        action = json.loads(line)
    except ValueError:
        return False
    if not isinstance(action, dict) or len(action) != 1:
        return False
    [metadata] = action.values()
    return isinstance(metadata, dict) and {name.removeprefix("_") for name in metadata} <= _METADATA


class BulkReader:
    """Reads the pairs of another reader as lines. `is_paused` says that no bytes do not mean the end."""

    def __init__(self, reader: Reader, is_paused: Callable[[], bool]) -> None:
        self._reader = reader
        self._is_paused = is_paused
        self._rest = b""
        self._action: bytes | None = None
        self._made = b""

    def read1(self, size: int, /) -> bytes:
        """Return at most `size` bytes; no bytes at the end."""
        while not self._made:
            data = self._reader.read1(size)
            if not data:
                if self._is_paused():
                    return b""
                self._made = b"".join(self._lines(self._rest, is_last=True)) + (self._action or b"")
                self._rest, self._action = b"", None
                break
            whole, line_feed, self._rest = (self._rest + data).rpartition(b"\n")
            self._made = b"".join(self._lines(whole + line_feed, is_last=False))
        data, self._made = self._made[:size], self._made[size:]
        return data

    def _lines(self, text: bytes, *, is_last: bool) -> Iterator[bytes]:
        lines = text.splitlines(keepends=True) if is_last and text else text.split(b"\n")
        if not is_last or not text:
            lines = [line + b"\n" for line in lines[:-1]]
        for line in lines:
            if self._action is None:
                match = _ACTION.match(line)
                if match is None or match[1] == b"delete":
                    yield line
                else:
                    self._action = line
            elif not line.strip():  # Offsets stay where they are.
                self._action += line
            else:
                action, self._action = self._action, None
                yield joined(action, line)


def joined(action: bytes, document: bytes) -> bytes:
    """Return an action and its document as one line of the same length; both, where there is no such line."""
    match, end = _ACTION.match(action), action.rstrip()
    begin = _OBJECT.match(document)
    if match is None or begin is None or not end.endswith(b"}"):
        return action + document
    if match[1] == b"update":
        document = _of_update(document)
        begin = _OBJECT.match(document) or begin
    at, body = match.start(1), document[begin.end() :]
    comma = b" " if _IS_EMPTY.match(body) else b","
    blanks = len(action) - len(end) + begin.end() - 1
    return b"".join((action[:at], b"$", end[at:-1], comma, b" " * blanks, body))


def _of_update(document: bytes) -> bytes:
    """Return the object `doc` of an update, with blanks in the place of all around it."""
    try:
        place = _place_of_doc(document.decode("latin-1"))
    except (ValueError, IndexError, RecursionError):
        return document
    if place is None:
        return document
    begin, end = place
    after = document[end:]
    line_end = after[len(after.rstrip()) :]
    return b" " * begin + document[begin:end] + b" " * (len(after) - len(line_end)) + line_end


def _place_of_doc(text: str) -> tuple[int, int] | None:
    """Return where the value of the member `doc` of an object begins and ends; None where it is no object.

    Raises ValueError or IndexError when the text is no object.
    """
    place, separator = _after_blanks(text, 0), "{"
    while text[place] == separator:
        name, place = _DECODER.raw_decode(text, _after_blanks(text, place + 1))
        begin = _after_blanks(text, _after_blanks(text, place) + 1)  # Beyond the colon.
        _, end = _DECODER.raw_decode(text, begin)
        if name == "doc":
            return (begin, end) if text[begin] == "{" else None
        place, separator = _after_blanks(text, end), ","
    return None


def _after_blanks(text: str, place: int) -> int:
    while text[place] in " \t\r\n":
        place += 1
    return place
