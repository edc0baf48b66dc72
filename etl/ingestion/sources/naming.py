"""The sources that a command line argument names, in the order in which they are loaded. Opens only archives."""

import glob
import os
import re
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Final

import structlog

from etl.errors import UsageError
from etl.ingestion.sources.recognition import TAR_BLOCK_BYTES, compression_of, is_tar
from etl.ingestion.values import Source, printable_path

log = structlog.get_logger(__name__)

PASSED_BY: Final = "hidden and unfinished files (.part, .tmp), checksums, and names with _ (_SUCCESS) do not count"
"""Says which files of a folder or a pattern are no sources."""

_MOST_LOGGED = 3

_FEW = 64
_NAMES_ARCHIVE = re.compile(r"(?i).*(?:\.(?:tar|tgz|tbz2?|txz|tzst|zip)\b|!)").match
_IS_HIDDEN = re.compile(r"(?:.*/)?(?:\.|__MACOSX/)").match

_UNFINISHED = frozenset({".part", ".tmp", ".partial", ".filepart", ".crdownload", ".inprogress"})
_BESIDE = frozenset(
    {".crc", ".md5", ".sha1", ".sha256", ".sha512", ".asc", ".sig", ".done", ".ok", ".ready", ".success", ".trg"}
)
"""Checksums and signatures of files, and files whose presence says that another is complete."""

_SPEAKING = _UNFINISHED | _BESIDE


def named(argument: str, encoding: str = "auto") -> list[Source]:
    """Return the sources that an argument names: a path, a pattern, a folder, a URL, or `-` for standard input.

    A folder and a pattern name their files, sorted, except those that hold no records by their names: hidden and
    unfinished ones, checksums, and what other programs write beside an export (`_SUCCESS`). `**` includes subfolders, a
    folder itself does not. A tar archive, and a zip archive with several files, name the files in it. A pattern that
    matches no file is kept as a path, so that the missing file is reported.

    Raises UsageError for an argument that cannot name a source, SourceError when an object store or an archive cannot
    be listed.
    """
    if not argument:
        raise UsageError("a source has no name", hint="is a variable of the calling script empty?")
    if argument == "-":
        return [Source(name="-", path=None, encoding=encoding)]
    if "://" in argument and (urls := _urls(argument, encoding)):
        return urls
    try:
        files = _files(argument)
    except OSError:  # An unreadable folder, a name too long, a loop of links: opening it reports which.
        files = []
    found = [Source(name=printable_path(path), path=path, encoding=encoding) for path in files or [argument]]
    return [each for source in found for each in _expanded(source, is_one_of_many=len(found) > _FEW)]


def _expanded(source: Source, *, is_one_of_many: bool) -> list[Source]:
    """Return the files in an archive that may hold records, else the source itself.

    Of many files only the names are looked at, because each that is no archive would be opened once more.
    """
    name = str(source.path)
    if is_one_of_many and not _NAMES_ARCHIVE(name):
        return [source]
    is_file = os.path.isfile(name)  # noqa: PTH113 - False also for a name that is too long
    if not _NAMES_ARCHIVE(name) and not is_file:
        return [source]
    if is_file and not _may_be_archive(name):
        return [source]
    from etl.ingestion.sources import archives  # noqa: PLC0415 - most sources are in no archive

    if not is_file:
        return [archives.member_of(source) or source]
    found = archives.members(source)
    held = [
        each for each in found if each.member and holds_records(each.member.name) and not _IS_HIDDEN(each.member.name)
    ]
    return held or [source]


def _may_be_archive(name: str) -> bool:
    """Return whether a file begins as an archive or a compressed one does; False for one that cannot be read."""
    try:
        with Path(name).open("rb") as file:
            first = file.read(TAR_BLOCK_BYTES)
    except OSError:
        return False
    return compression_of(first) is not None or is_tar(first)


def _urls(argument: str, encoding: str) -> list[Source]:
    """Return the sources of an argument that is a URL; none of a path."""
    from etl.ingestion.sources import remote  # noqa: PLC0415 - its modules would slow down the start of all others

    if not remote.scheme_of(argument) or Path(argument).exists():
        return []
    remote.require_driver(argument)
    pattern = f"{argument}*" if argument.endswith("/") else argument
    urls = [url for url in remote.expand(argument) if url == argument or holds_records(url, pattern)]
    return [Source(name=remote.printable(url), path=None, url=url, encoding=encoding) for url in urls or [argument]]


def _files(argument: str) -> list[str]:
    path = Path(argument)
    if path.is_dir():
        begin = str(path / "x")[:-1]
        with os.scandir(path) as entries:
            own = [entry.name for entry in entries if entry.is_file()]
        names = [begin + name for name in own]
        files = [begin + name for name in own if _is_plain(name) or holds_records(name)]
    elif path.exists():
        return []
    else:
        found = glob.glob(argument, recursive=True)  # noqa: PTH207 - a pattern may be absolute
        names = [name for name in found if Path(name).is_file()]
        files = [name for name in names if holds_records(name, argument)]
    if passed_by := sorted(set(names).difference(files)):
        first = [printable_path(PurePath(name).name) for name in passed_by[:_MOST_LOGGED]]
        log.info("files_passed_by", argument=printable_path(argument), files=len(passed_by), first=first)
    return sorted(files)


def _is_plain(name: str) -> bool:
    """Return whether a name alone shows that its file needs no closer look: a fast answer for folders of many files."""
    return name[0] not in "._" and name[name.rfind(".") :] not in _SPEAKING


def holds_records(name: str, pattern: str = "*") -> bool:
    """Return whether a file that a pattern has found may hold records by its name.

    Programs that write many files (Hadoop, Spark) begin the names of other files and folders with `_`. Where the
    pattern itself names such a beginning or an ending, the user wants it.
    """
    path, wanted = PurePath(name), PurePath(pattern)
    if path.name.startswith(".") or path.suffix in _UNFINISHED:
        return False
    if path.suffix in _BESIDE and path.suffix != wanted.suffix:
        return False
    fixed = sum(1 for _ in takewhile(lambda part: not glob.has_magic(part), wanted.parts))
    is_asked_for = any(part.startswith("_") for part in wanted.parts[fixed:])
    return is_asked_for or not any(part.startswith("_") for part in path.parts[fixed:])
