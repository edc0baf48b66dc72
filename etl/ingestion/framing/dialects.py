"""Texts that are nearly JSON: what they are, and the command that makes JSON of them. Pure."""

import re
from typing import Final, NamedTuple


class Dialect(NamedTuple):
    """The format of a text that is no JSON, and the command that makes JSON of it."""

    name: str
    hint: str


_LOAD: Final = "etl load DATASET -"
_BY_JSON5: Final = f"npx json5 FILE | {_LOAD}"


def _by_python(code: str) -> str:
    return f"python3 -c '{code}' < FILE | {_LOAD}"


_STRIPPED: Final = _by_python(
    r"""import re, sys; print(re.sub(r"(\"(?:[^\"\\]|\\.)*\")|//[^\n]*|/\*.*?\*/|#[^\n]*|,(?=\s*[]}])","""
    r""" lambda found: found[1] or "", sys.stdin.read(), flags=re.S))"""
)
_EVALUATED: Final = _by_python("import ast, json, sys; print(json.dumps(ast.literal_eval(sys.stdin.read())))")
_WITHOUT_NAN: Final = _by_python(
    "import json, sys; json.dump(json.load(sys.stdin, parse_constant=lambda _: None), sys.stdout)"
)

NOT_A_NUMBER: Final = Dialect("NaN or an infinity, which JSON does not have", f"this writes null: {_WITHOUT_NAN}")
"""Python's encoder writes these words."""

_WRAPPED: Final = Dialect(
    "JSON with code around it, as for a web page", f"sed '1s/^[^[{{]*//; $s/[;)]*[[:space:]]*$//' FILE | {_LOAD}"
)
_PREFIXED: Final = Dialect("lines with other text before the JSON, such as a log", f"sed 's/^[^{{]*//' FILE | {_LOAD}")

_LINE: Final = r'[^\n\[{"]{1,300}\{\s*"[^"\n]*"\s*:[^\n]*(?:\n|\Z)'

_BEGINNINGS: Final[tuple[tuple[str, Dialect], ...]] = (
    (rf"(?:{_LINE}){{2}}", _PREFIXED),
    (r'\[[^\]\[{"\n]*\][^\n\[{]*\{\s*"', _PREFIXED),
    (r"\)\]\}'|(?:while|for|throw)\b[^\n\[{]{0,9};?\s*[\[{]", _WRAPPED),
    (r"(?:(?:var|let|const|export|module)\b[^\n\[{=]{0,99}=?\s*|[A-Za-z_$][\w$.]*\s*[=(]\s*)[\[{]", _WRAPPED),
    (_LINE, _PREFIXED),
)
"""How texts begin that hold JSON after other text; the first match counts."""

_TEXT: Final = re.compile(r'"(?:[^"\\]|\\.)*"')

_PLACES: Final[tuple[tuple[str, Dialect], ...]] = (
    (r"//|/\*|#", Dialect("comments, which JSON does not have", _STRIPPED)),
    (r",\s*[\]}]", Dialect("a comma before a closing bracket", _STRIPPED)),
    (r"-?(?:NaN|Infinity)\b", NOT_A_NUMBER),
    (
        r"[bur]?'|(?:True|False|None)\b|(?:datetime\.|Decimal\(|UUID\(|OrderedDict\()",
        Dialect("a value as Python prints it, with other quotes and words", _EVALUATED),
    ),
    (
        r"(?!(?:true|false|null)\b)[A-Za-z_$][\w$]*\s*:",
        Dialect("names without quotes, as JavaScript has them", _BY_JSON5),
    ),
)
"""The texts at the first place that is no JSON."""


def dialect_of(beginning: str) -> Dialect | None:
    """Return the dialect of a source that begins so, or None."""
    return next((dialect for pattern, dialect in _BEGINNINGS if re.match(pattern, beginning)), None)


def dialect_at(text: str, position: int) -> Dialect | None:
    """Return the dialect of a text whose first place that is no JSON is this one, or None."""
    # A decoder names the comma that is too much, or the bracket after it.
    before = text[max(0, position - 100) : position].rstrip()
    if before.endswith(",") and text[position : position + 1] in {"]", "}"}:
        position = text.rindex(",", 0, position)
    here = text[position : position + 100].lstrip()
    return next((dialect for pattern, dialect in _PLACES if re.match(pattern, here)), None)


def dialect_in(text: str) -> Dialect | None:
    """Return the dialect of a text that is not JSON somewhere, or None."""
    plain = _TEXT.sub('""', text)
    found = ((match.start(), dialect) for pattern, dialect in _PLACES if (match := re.search(pattern, plain)))
    return min(found, key=lambda each: each[0], default=(0, None))[1]
