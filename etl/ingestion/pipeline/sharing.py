"""The datasets that share a source, and the path of the records of each. This module opens no source."""

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
    """A dataset, and the path of its records in this load; None: the path in the definition."""

    dataset: Dataset
    records: str | None

    @property
    def path(self) -> str:
        """The path of its records."""
        return self.dataset.records if self.records is None else self.records


def shares_of(names: str, records: str | None, format: Format, config_dir: Path) -> list[Share]:
    """Return a share for each dataset in `names`.

    `names` are separated by commas, perhaps with spaces, and so are the paths in `records`. Without `records`, a
    dataset whose definition reads the top-level array (`item`) reads the array under its own name instead, because
    several datasets cannot share one array. Raises UsageError when the datasets cannot share a source.
    """
    dataset_names = _split(names)
    if len(dataset_names) == 1:
        return [Share(datasets.find(dataset_names[0], config_dir), records)]
    _require_distinct(dataset_names, names)
    if format == "ndjson":
        raise UsageError(
            "--format ndjson has no paths that could separate the records of several datasets",
            hint="load such a source by one command for each dataset",
        )
    definitions = [datasets.find(name, config_dir) for name in dataset_names]
    if records is None:
        shares = [
            Share(dataset, f"{dataset.name}.item" if dataset.records == "item" else None) for dataset in definitions
        ]
    else:
        paths = _split(records)
        if len(paths) != len(dataset_names):
            raise UsageError(
                f"--records expects {len(dataset_names)} paths, one for each dataset, got {len(paths)}",
                hint=f"separate them by commas, as in {','.join(f'{name}.item' for name in dataset_names)}",
            )
        shares = [Share(dataset, path) for dataset, path in zip(definitions, paths, strict=True)]
    _require_disjoint(shares)
    return shares


def _split(text: str) -> list[str]:
    """Return the parts between commas, without the spaces around them."""
    return [part.strip() for part in text.split(",")]


def _require_distinct(dataset_names: Sequence[str], names: str) -> None:
    if "" in dataset_names:
        raise UsageError(f"a dataset has no name in {names!r}", hint="separate names by one comma, as in a,b")
    name, count = Counter(dataset_names).most_common(1)[0]
    if count > 1:
        raise UsageError(f"the dataset {name} is named twice", hint="name each dataset once")


def _require_disjoint(shares: Sequence[Share]) -> None:
    for share in shares:
        require_path(share.path)
    for first, second in combinations(shares, 2):
        if _is_within(first.path, second.path) or _is_within(second.path, first.path):
            raise UsageError(
                f"the records of {first.dataset.name} at {first.path or repr('')} and of {second.dataset.name} at"
                f" {second.path or repr('')} are the same or within each other",
                hint="--records takes a separate path for each dataset, separated by commas",
            )


def _is_within(path: str, other: str) -> bool:
    """Return whether records at `path` are, or may be, records at `other` or parts of them."""
    steps, other_steps = path.split(".") if path else [], other.split(".") if other else []
    return len(steps) >= len(other_steps) and all(
        step == other_step or "*" in {step, other_step} for step, other_step in zip(steps, other_steps, strict=False)
    )
