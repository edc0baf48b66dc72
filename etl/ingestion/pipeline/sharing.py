"""Datasets that share a source: which ones are meant, and at which path each has its records. Opens no source."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from etl import datasets
from etl.datasets import Dataset
from etl.errors import UsageError
from etl.ingestion.framing.documents import require_path
from etl.settings import Format


class Share(NamedTuple):
    """A dataset, and the path at which its records are asked for; None: the definition's own."""

    dataset: Dataset
    records: str | None

    @property
    def path(self) -> str:
        """The path at which its records are."""
        return self.dataset.records if self.records is None else self.records


def shares_of(names: str, records: str | None, format: Format, config_dir: Path) -> list[Share]:
    """Return the datasets that `names` are, separated by commas; so are the paths of several in `records`.

    Without these, a definition whose records are the elements of the whole source has them at its name: one array
    cannot hold the records of several. Raises UsageError when the datasets cannot share a source.
    """
    given = names.split(",")
    if len(given) == 1:
        return [Share(datasets.find(names, config_dir), records)]
    _require_apart(given, names)
    if format == "ndjson":
        raise UsageError(
            "--format ndjson has no paths by which several datasets could tell their records",
            hint="load such a source into each dataset by a command of its own",
        )
    definitions = [datasets.find(name, config_dir) for name in given]
    if records is None:
        found = [Share(each, f"{each.name}.item" if each.records == "item" else None) for each in definitions]
    else:
        paths = records.split(",")
        if len(paths) != len(given):
            raise UsageError(
                f"--records expects {len(given)} paths, one for each dataset, got {len(paths)}",
                hint=f"separate them by commas, as in {','.join(f'{name}.item' for name in given)}",
            )
        found = [Share(each, path) for each, path in zip(definitions, paths, strict=True)]
    _require_disjoint(found)
    return found


def _require_apart(given: Sequence[str], names: str) -> None:
    if "" in given:
        raise UsageError(f"a dataset has no name in {names!r}", hint="separate names by one comma, as in a,b")
    name, count = Counter(given).most_common(1)[0]
    if count > 1:
        raise UsageError(f"the dataset {name} is named twice", hint="name each dataset once")


def _require_disjoint(shares: Sequence[Share]) -> None:
    for each in shares:
        require_path(each.path)
    for one, other in combinations(shares, 2):
        if _is_within(one.path, other.path) or _is_within(other.path, one.path):
            raise UsageError(
                f"the records of {one.dataset.name} at {one.path or repr('')} and of {other.dataset.name} at"
                f" {other.path or repr('')} are the same or within each other",
                hint="--records names a path of its own for each dataset, separated by commas",
            )


def _is_within(path: str, other: str) -> bool:
    """Tell whether records at `path` are, or may be, records at `other` or within them."""
    names, others = path.split(".") if path else [], other.split(".") if other else []
    return len(names) >= len(others) and all(
        name == each or "*" in {name, each} for name, each in zip(names, others, strict=False)
    )
