"""The sources that a command line argument names, in the order in which they are loaded. Opens none of them."""

import glob
from pathlib import Path

from etl.errors import UsageError
from etl.ingestion.sources import remote
from etl.ingestion.values import Source, printable_path

_UNFINISHED = frozenset({".part", ".tmp"})


def named(argument: str, encoding: str = "auto") -> list[Source]:
    """Return the sources that an argument names: a path, a pattern, a folder, a URL, or `-` for standard input.

    A folder and a pattern name their files, sorted, except hidden and unfinished ones; `**` includes subfolders, a
    folder itself does not. A pattern that matches no file is kept as a path, so that the missing file is reported.

    Raises UsageError for an argument that cannot name a source, SourceError when an object store cannot be listed.
    """
    if not argument:
        raise UsageError("a source has no name", hint="is a variable of the calling script empty?")
    if argument == "-":
        return [Source(name="-", path=None, encoding=encoding)]
    if "://" in argument and remote.scheme_of(argument) and not Path(argument).exists():
        remote.require_driver(argument)
        urls = remote.expand(argument)
        return [Source(name=remote.printable(url), path=None, url=url, encoding=encoding) for url in urls or [argument]]
    try:
        files = _files(argument)
    except OSError:  # An unreadable folder, a name too long, a loop of links: opening it reports which.
        files = []
    return [Source(name=printable_path(path), path=path, encoding=encoding) for path in files or [argument]]


def _files(argument: str) -> list[str]:
    path = Path(argument)
    if path.is_dir():
        return sorted(str(entry) for entry in path.iterdir() if entry.is_file() and _is_finished(entry))
    if path.exists():
        return []
    names = glob.glob(argument, recursive=True)  # noqa: PTH207 - a pattern may be absolute
    return sorted(name for name in names if Path(name).is_file() and _is_finished(Path(name)))


def _is_finished(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix not in _UNFINISHED
