"""`etl.infer`, which proposes a definition, and `etl.create`, which makes its tables."""

from pathlib import Path

from etl import datasets, provisioning
from etl.errors import UsageError
from etl.inference import SAMPLE, proposing
from etl.library.arguments import AnySource, require_kinds, settings_from, sources_of
from etl.library.opening import be_quiet, opened
from etl.library.results import Created, Proposed


def infer(
    source: AnySource,
    *,
    name: str | None = None,
    output: str | Path | None = None,
    encoding: str = "auto",
    records: str | None = None,
    sample: int | None = SAMPLE,
    config_dir: str | Path = "config",
) -> Proposed:
    """Propose a dataset definition from the first records of a source as `etl dataset infer` does.

    `sample` is the number of records that are read, None: all. An iterator and an open file are read so far, and not
    from the beginning again. `output` is the file to write, such as config/datasets/parcels.toml. Raises EtlError.
    """
    require_kinds(texts={"name": name}, paths={"output": output, "config_dir": config_dir})
    if sample is not None and (sample < 1):
        raise UsageError("sample: expected a number of records, at least 1, or None for all")
    be_quiet()
    settings = settings_from({"encoding": encoding, "records": records})
    path = None if output is None else Path(output)
    found = proposing.propose(
        sources_of([source], settings), Path(config_dir), name=name, output=path, records=records, sample=sample
    )
    return Proposed(dataset=found.dataset, text=found.text, sample=found.sample, path=path)


def create(dataset: str, *, database: str | None = None, config_dir: str | Path = "config") -> Created:
    """Make what is missing of the tables of a dataset as `etl dataset create` does; return their names.

    Raises EtlError.
    """
    require_kinds(texts={"dataset": dataset, "database": database}, paths={"config_dir": config_dir})
    folder = Path(config_dir)
    definition = datasets.find(dataset, folder)
    with opened(database, folder) as target:
        provisioning.create(target, definition)
    return Created(dataset=dataset, tables=tuple(table.name for table in definition.tables))
