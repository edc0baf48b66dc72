"""HTML and SVG elements. Pure. Only this module writes `<`; a text is escaped unless it is Markup."""

import html
import re
from collections.abc import Iterable
from typing import Any

_VOID = frozenset({"meta", "wbr"})
# Characters that HTML and XML do not allow, escaped or not.
_IMPOSSIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is HTML or SVG. Only `element` and constants of this program make it."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Return a value as markup: escaped, unless it is markup."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(_IMPOSSIBLE.sub("\N{REPLACEMENT CHARACTER}", str(value))))


def joined(parts: Iterable[object]) -> Markup:
    """Return the parts joined, each converted by `text`."""
    return Markup("".join(map(text, parts)))


def element(name: str, /, *children: object, **attributes: Any) -> Markup:
    """Return `<name ...>children</name>`; an attribute `class_` is written class, `font_size` font-size."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    written = "".join(f' {key}="{text(value)}"' for key, value in given.items())
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")
