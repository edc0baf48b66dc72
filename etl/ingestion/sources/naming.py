"""What a command line argument names: the sources, in the order in which they are loaded. Opens none of them."""

import glob
from pathlib import Path

from etl.errors import UsageError
from etl.ingestion.sources import remote
from etl.ingestion.values import Source, printable_path

_UNFINISHED = frozenset({".part", ".tmp"})


def named(argument: str, encoding: str = "auto") -> list[Source]:
    """Return the sources that an argument names: a path, a pattern, a folder, a URL, or `-` for standard input.

    Of a folder and of a pattern all files but hidden and unfinished ones, sorted; `**` reaches into folders, a folder
    itself does not. What matches nothing is kept as a path, so that its absence is told.

    Raises UsageError for a name that can name nothing, SourceError when an object store does not tell what it holds.
    """
    if not argument:
        raise UsageError("a source has no name", hint="is a variable of the calling script empty?")
    if argument == "-":
        return [Source(name="-", path=None, encoding=encoding)]
    if "://" in argument and remote.scheme_of(argument) and not Path(argument).exists():
        remote.require_driver(argument)
        urls = remote.matching(argument)
        return [Source(name=remote.shown(url), path=None, url=url, encoding=encoding) for url in urls or [argument]]
    try:
        files = _files(argument)
    except OSError:  # A folder that may not be read, a name too long, a loop of links: opening it tells which.
        files = []
    return [Source(name=printable_path(path), path=path, encoding=encoding) for path in files or [argument]]


def _files(argument: str) -> list[str]:
    path = Path(argument)
    if path.is_dir():
        return sorted(str(entry) for entry in path.iterdir() if entry.is_file() and _is_finished(entry))
    if path.exists():
        return []
    found = glob.glob(argument, recursive=True)  # noqa: PTH207 - a pattern may be absolute
    return sorted(name for name in found if Path(name).is_file() and _is_finished(Path(name)))


def _is_finished(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix not in _UNFINISHED
