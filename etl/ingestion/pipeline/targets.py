"""The targets of a load: its datasets, and the path of the records of each in a source. This module opens no source."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Self

from msgspec.structs import replace

from etl import datasets
from etl.datasets import Dataset
from etl.errors import UsageError
from etl.ingestion.framing.documents import require_path
from etl.quick_dataclasses import dataclass
from etl.settings import LoadSettings, Mode


@dataclass(frozen=True, kw_only=True)
class Target:
    """A dataset, with the policies of the load, and the path at which a source holds its records.

    `records` is the path that the command names, None without one: then the definition's path counts.
    """

    dataset: Dataset
    records: str | None
    mode: Mode
    is_atomic: bool

    @classmethod
    def of(cls, dataset: Dataset, records: str | None, settings: LoadSettings) -> Self:
        """Return the target of a load with these options, which come before those of the definition."""
        mode = settings.mode or dataset.mode
        return cls(
            dataset=replace(dataset, **settings.policies),
            records=records,
            mode=mode,
            is_atomic=settings.atomic or mode == "replace",
        )

    @property
    def records_path(self) -> str:
        """The path of a record."""
        return self.dataset.records if self.records is None else self.records

    @property
    def sends_digests(self) -> bool:
        """Whether the rows get the digests of their records, if their table takes them: those that may be updated."""
        return self.mode != "append" or self.dataset.on_duplicate == "newest"

    @property
    def is_in_order(self) -> bool:
        """Whether the records of a source must load in their order, because the first one of a key counts."""
        return self.dataset.on_duplicate in {"first", "reject"}

    def definition_hash(self, encoding: str) -> str:
        """Return a digest of everything that decides which rows a record of a source in this encoding becomes.

        The option for the path of the records does not: wherever a source holds the same records, their rows are equal.
        """
        return self._hash(self.dataset.records, encoding)

    def is_defined_by(self, definition_hash: str, encoding: str) -> bool:
        """Return whether a run has this definition; earlier versions included the path that the command named."""
        return definition_hash in self.definition_hashes(encoding)

    def definition_hashes(self, encoding: str) -> set[str]:
        """Return the digests by which runs of this definition may be entered."""
        return {self.definition_hash(encoding), self._hash(self.records_path, encoding)}

    def _hash(self, records: str, encoding: str) -> str:
        text = f"{self.dataset.hash} {records} {self.mode}"
        if encoding != "auto":
            text += f" {encoding}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def targets_of(names: str, settings: LoadSettings, config_dir: Path) -> list[Target]:
    """Return a target for each dataset in `names`.

    `names` are separated by commas, perhaps with spaces, and so are the paths in `records` of the settings. Without
    these paths, a dataset whose definition reads the top-level array (`item`) reads the array under its own name
    instead, because several datasets cannot share one array. Raises UsageError when the datasets cannot share a source.
    """
    dataset_names = _split(names)
    if len(dataset_names) == 1:
        return [Target.of(datasets.find(dataset_names[0], config_dir), settings.records, settings)]
    _require_distinct(dataset_names, names)
    if settings.format == "ndjson":
        raise UsageError(
            "--format ndjson has no paths that could separate the records of several datasets",
            hint="load such a source by one command for each dataset",
        )
    definitions = [datasets.find(name, config_dir) for name in dataset_names]
    paths = _paths(definitions, settings.records)
    targets = [Target.of(dataset, path, settings) for dataset, path in zip(definitions, paths, strict=True)]
    _require_disjoint(targets)
    return targets


def _paths(definitions: Sequence[Dataset], records: str | None) -> Sequence[str | None]:
    """Return the path of the records of each dataset in this load; None: the path in its definition."""
    if records is None:
        return [f"{dataset.name}.item" if dataset.records == "item" else None for dataset in definitions]
    paths = _split(records)
    if len(paths) != len(definitions):
        raise UsageError(
            f"--records expects {len(definitions)} paths, one for each dataset, got {len(paths)}",
            hint=f"separate them by commas, as in {','.join(f'{dataset.name}.item' for dataset in definitions)}",
        )
    return paths


def _split(text: str) -> list[str]:
    """Return the parts between commas, without the spaces around them."""
    return [part.strip() for part in text.split(",")]


def _require_distinct(dataset_names: Sequence[str], names: str) -> None:
    if "" in dataset_names:
        raise UsageError(f"a dataset has no name in {names!r}", hint="separate names by one comma, as in a,b")
    name, count = Counter(dataset_names).most_common(1)[0]
    if count > 1:
        raise UsageError(f"the dataset {name} is named twice", hint="name each dataset once")


def _require_disjoint(targets: Sequence[Target]) -> None:
    for target in targets:
        require_path(target.records_path)
    for first, second in combinations(targets, 2):
        path, other = first.records_path, second.records_path
        if _is_within(path, other) or _is_within(other, path):
            raise UsageError(
                f"the records of {first.dataset.name} at {path or repr('')} and of {second.dataset.name} at"
                f" {other or repr('')} are the same or within each other",
                hint="--records takes a separate path for each dataset, separated by commas",
            )


def _is_within(path: str, other: str) -> bool:
    """Return whether records at `path` are, or may be, records at `other` or parts of them."""
    steps, other_steps = path.split(".") if path else [], other.split(".") if other else []
    return len(steps) >= len(other_steps) and all(
        step == other_step or "*" in {step, other_step} for step, other_step in zip(steps, other_steps, strict=False)
    )
