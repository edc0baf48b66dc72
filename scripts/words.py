#!/usr/bin/env python3
"""Find words that are not plain English, in the pages, messages, comments, docstrings and names of the project.

`python -m scripts.words [PATH...]` prints `FILE:LINE: WORD -> what to write instead` for each, and ends with 1 when
there is one. Without a path it searches the whole project. `scripts/words.toml` lists the words, and the places where
one of them is right. In Python files it searches comments, docstrings, other strings (but those of tests) and the names
that a file defines; other files are searched as a whole.
"""

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".toml")

_PLACES = ("etl", "scripts", "sql", "config", "tests", "docs", ".github")
_SUFFIXES = {".py", ".md", ".sql", ".toml", ".yml", ".yaml", ".service", ".timer"}
_WITHOUT_SUFFIX = {"Dockerfile", "Makefile", "crontab", "demo", "retry"}
_LEFT_OUT = {LIST, ROOT / "tests" / "docs" / "test_words.py"}  # they name the words

_MARKS = re.compile(r"^[ \t]*(?:--|#)", re.MULTILINE)
_PARTS_OF_NAME = re.compile(r"[_\-.]+|(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word that should be another."""

    finds: re.Pattern[str]
    write: str
    names: bool = False
    under: tuple[str, ...] = ()

    def applies(self, path: str) -> bool:
        """Return whether the word is looked for in a file."""
        return not self.under or path.startswith(tuple(f"{folder}/" for folder in self.under))


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """A place where a word of the list is right."""

    finds: re.Pattern[str]
    reason: str
    files: str = "*"


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A text of a file: `first` and `last` are its lines, `is_name` says that it is a name."""

    text: str
    first: int
    last: int
    is_name: bool = False


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A word of the list; `allowed` is the entry that lets it pass."""

    path: str
    line: int
    text: str
    word: Word
    allowed: Allowed | None

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text} -> {self.word.write}"


def read_list(path: Path = LIST) -> tuple[tuple[Word, ...], tuple[Allowed, ...]]:
    """Return the words to find, and the places where they are right."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    words = [
        Word(
            finds=_pattern(entry["finds"]),
            write=entry["write"],
            names=entry.get("names", False),
            under=tuple(entry.get("under", ())),
        )
        for entry in document["word"]
    ]
    allowed = [
        Allowed(finds=_pattern(entry["finds"]), reason=entry["reason"], files=entry.get("files", "*"))
        for entry in document.get("allowed", ())
    ]
    return tuple(words), tuple(allowed)


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text.replace(" ", r"\s+"), re.IGNORECASE)


def files(paths: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield the files below `paths`, or of the whole project, that are searched."""
    if not paths:
        paths = [*(ROOT / place for place in _PLACES), *(each for each in ROOT.iterdir() if each.is_file())]
    for path in paths:
        for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
            is_text = each.suffix in _SUFFIXES or each.name in _WITHOUT_SUFFIX
            if is_text and each.is_file() and each not in _LEFT_OUT:
                yield each


def search(path: Path, words: Iterable[Word], allowed: Iterable[Allowed], root: Path = ROOT) -> Iterator[Finding]:
    """Yield what is found in a file, also what is allowed, in the order of its lines."""
    name = path.relative_to(root).as_posix()
    words = [word for word in words if word.applies(name)]
    allowed = [each for each in allowed if fnmatch(name, each.files)]
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    passages = _of_python(text, is_test=name.startswith("tests/")) if path.suffix == ".py" else _of_text(text)
    findings = (
        finding
        for passage in (_named(path.name), *passages)
        for finding in _search(passage, name, lines, words, allowed)
    )
    yield from sorted(findings, key=lambda finding: finding.line)


def _search(
    passage: Passage, path: str, lines: Sequence[str], words: Iterable[Word], allowed: Iterable[Allowed]
) -> Iterator[Finding]:
    text = _PARTS_OF_NAME.sub(" ", passage.text) if passage.is_name else passage.text
    for word in words:
        if passage.is_name and not word.names:
            continue
        for match in word.finds.finditer(text):
            yield Finding(
                path=path,
                line=_line(passage, lines, text, match),
                text=passage.text if passage.is_name else " ".join(match[0].split()),
                word=word,
                allowed=next((each for each in allowed if _covers(each.finds, text, match)), None),
            )


def _covers(pattern: re.Pattern[str], text: str, match: re.Match[str]) -> bool:
    return any(each.start() <= match.start() and match.end() <= each.end() for each in pattern.finditer(text))


def _line(passage: Passage, lines: Sequence[str], text: str, match: re.Match[str]) -> int:
    """Return the line of the first word that was found; the lines of a string differ from those that spell it."""
    if passage.is_name:
        return passage.first
    word = re.escape(match[0].split()[0])
    before = len(re.findall(word, text[: match.start()]))
    numbers = [
        number
        for number in range(passage.first, passage.last + 1)
        for _ in re.findall(word, lines[number - 1] if number <= len(lines) else "")
    ]
    return numbers[before] if before < len(numbers) else passage.first


def _named(name: str, line: int = 1) -> Passage:
    return Passage(text=name, first=line, last=line, is_name=True)


def _of_text(text: str) -> Iterator[Passage]:
    yield Passage(text=_without_marks(text), first=1, last=text.count("\n") + 1)


def _without_marks(text: str) -> str:
    """Return a text in which no mark of a comment is between the words of a sentence."""
    return _MARKS.sub(lambda found: " " * len(found[0]), text)


def _of_python(text: str, *, is_test: bool) -> Iterator[Passage]:
    yield from _comments(text)
    module = _Module()
    module.read(ast.parse(text))
    yield from module.names
    for node, string, is_documentation in module.strings:
        if not is_test or is_documentation:
            yield Passage(text=string, first=node.lineno, last=node.end_lineno or node.lineno)


def _comments(text: str) -> Iterator[Passage]:
    """Yield the comments of a module; those of lines that follow one another are one text."""
    block: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] != block[-1].start[0] + 1:
                yield _joined(block)
                block = []
            block.append(token)
    if block:
        yield _joined(block)


def _joined(block: Sequence[tokenize.TokenInfo]) -> Passage:
    text = "\n".join(token.string.lstrip("#") for token in block)
    return Passage(text=text, first=block[0].start[0], last=block[-1].start[0])


class _Module:
    """The names that a module defines, and its strings, each with whether it is a statement of its own.

    One way through the tree finds both: most time of the search is spent in the trees.
    """

    def __init__(self) -> None:
        self.names: list[Passage] = []
        self.strings: list[tuple[ast.expr, str, bool]] = []

    def read(self, node: ast.AST, *, is_statement: bool = False) -> None:
        """Read a node and everything below it."""
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                self.strings.append((node, node.value, is_statement))
        elif isinstance(node, ast.JoinedStr):
            self._read_joined(node)
        else:
            if name := _defined(node):
                self.names.append(name)
            for child in _children(node):
                self.read(child, is_statement=isinstance(node, ast.Expr))

    def _read_joined(self, node: ast.JoinedStr) -> None:
        """Read a string in which {} is an inserted value, and then the values."""
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        self.strings.append((node, text, False))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.read(part.value)


def _defined(node: ast.AST) -> Passage | None:
    """Return the name that a node defines."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return _named(node.name, node.lineno)
        case ast.arg():
            return _named(node.arg, node.lineno)
        case ast.Name(ctx=ast.Store()):
            return _named(node.id, node.lineno)
        case ast.Attribute(ctx=ast.Store()):
            return _named(node.attr, node.lineno)
        case ast.alias(asname=str(name)):
            return _named(name, node.lineno)
        case _:
            return None


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below a node that have a content; `ast.iter_child_nodes` takes twice the time."""
    for field in node._fields:
        child = getattr(node, field, None)
        if isinstance(child, list):
            yield from (each for each in child if isinstance(each, ast.AST))
        elif isinstance(child, ast.AST) and child._fields:
            yield child


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Print what is found below the paths that are given, and return the exit code: 2 when a path does not exist."""
    paths = [Path(argument).resolve() for argument in arguments]
    missing = [str(path) for path in paths if not path.is_relative_to(root) or not path.exists()]
    if missing:
        print(f"expected files or folders below {root}, got {', '.join(missing)}", file=sys.stderr)  # noqa: T201
        return 2
    words, allowed = read_list()
    findings = [
        finding for path in files(paths) for finding in search(path, words, allowed, root) if finding.allowed is None
    ]
    for finding in findings:
        print(finding)  # noqa: T201 - its result
    if findings:
        print(f"{len(findings)} words to replace; scripts/words.toml lists them", file=sys.stderr)  # noqa: T201
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
