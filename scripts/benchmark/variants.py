"""What is measured: each variant is one command over one sample, with what it needs to be there."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from etl.embedded import binary
from scripts.benchmark.database import CHILDREN, DLT_SCHEMA, ITEMS, PLAIN, TABLES, WHOLE

OTHERS = ("duckdb", "polars", "dlt")

_PROGRAMS = Path(__file__).parent / "others"
_DLT_RECORDS = 100_000  # more would take it minutes
_SHARES = {"items": 0.3, "children": 0.3}  # of the records: with its children a shipment is four rows, or six

_Need = Literal["", "--workers", "--decoder", "duckdb", "polars", "dlt", "jq"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A command with `{names}` for what only a run knows, and the exit code of its success.

    A ceiling sends files that are prepared from what another variant loaded.
    """

    name: str
    sample: str
    words: tuple[str, ...]
    tables: tuple[str, ...] = TABLES[PLAIN]
    needs: tuple[_Need, ...] = ()
    exit_code: int = 0
    prepared_by: "Variant | None" = None

    def records(self, asked: int) -> int:
        """Return how many records its sample holds when that many are asked for."""
        if "dlt" in self.needs:
            return min(asked, _DLT_RECORDS)
        return max(1, int(asked * _SHARES.get(self.sample, 1)))


def _etl(name: str, sample: str, *options: str, dataset: str = PLAIN, exit_code: int = 0) -> Variant:
    return Variant(
        name=f"etl {name}",
        sample=sample,
        words=("{etl}", "load", dataset, "{source}", "--no-precalculate", "--failed-dir", "{failed}", *options),
        tables=TABLES[dataset],
        needs=tuple(need for need in ("--workers", "--decoder") if need in options),
        exit_code=exit_code,
    )


def _ceiling(name: str, loader: Variant) -> Variant:
    pairs = [word for table in loader.tables for word in (table, f"{{folder}}/{table}-{{records}}.copy")]
    program = str(_PROGRAMS / "copy_prepared.py")
    words = ("{python}", program, "{address}", *pairs)
    return Variant(name=name, sample=loader.sample, words=words, tables=loader.tables, prepared_by=loader)


def _other(tool: Literal["duckdb", "polars"], sample: str) -> Variant:
    program = str(_PROGRAMS / f"{tool}_load.py")
    words = ("{others}", program, "{address}", "{table}", "{columns}", "{source}")
    return Variant(name=f"{tool} {sample}", sample=sample, words=words, needs=(tool,))


def ceiling_of(variant: Variant) -> str:
    """Return the name of the ceiling of what a variant loads; for a table of its own that of the shipments alone."""
    names = [CEILINGS[dataset].name for dataset, tables in TABLES.items() if tables == variant.tables]
    return names[0] if names else CEILINGS[PLAIN].name


_APPEND = _etl("append array", "array")
_APPEND_ITEMS = _etl("append items", "items", dataset=ITEMS)

_APPEND_CHILDREN = _etl("append two child tables", "children", dataset=CHILDREN)

_APPEND_WHOLE = _etl("append with whole records", "array", dataset=WHOLE)

CEILINGS = {
    PLAIN: _ceiling("ceiling", _APPEND),
    ITEMS: _ceiling("ceiling items", _APPEND_ITEMS),
    CHILDREN: _ceiling("ceiling two child tables", _APPEND_CHILDREN),
    WHOLE: _ceiling("ceiling with whole records", _APPEND_WHOLE),
}
"""That of the shipments alone, with their items, with items and stops, and with the whole record beside."""

SCALED = ("etl append array", "etl append array, 2 workers")

START_UPS = {"etl --help": ("{etl}", "--help"), "python -c pass": ("{python}", "-c", "pass")}

VARIANTS = (
    # What is compared runs one after the other: the machine's speed moves within a round, too.
    CEILINGS[PLAIN],
    _APPEND,
    _other("duckdb", "array"),
    _etl("append array, 2 workers", "array", "--workers", "2"),
    _etl("append ndjson", "ndjson"),
    _other("duckdb", "ndjson"),
    _other("polars", "ndjson"),
    _etl("append ndjson, 2 workers", "ndjson", "--workers", "2"),
    _etl("append gz", "gz"),
    _etl("append gz, 2 workers", "gz", "--workers", "2"),
    _etl("append array, ijson", "array", "--decoder", "ijson"),
    _etl("append array, ijson, 2 workers", "array", "--decoder", "ijson", "--workers", "2"),
    _etl("merge array", "array", "--mode", "merge"),
    _etl("merge array, 2 workers", "array", "--mode", "merge", "--workers", "2"),
    _etl("append 1 % bad by CHECK", "bad_check", exit_code=1),
    _etl("append 1 % bad by type", "bad_type", exit_code=1),
    _etl("append 1 % bad by NUL", "bad_nul", exit_code=1),
    Variant(
        name="jq and psql ndjson",
        sample="ndjson",
        words=(
            *("bash", "-c", 'set -o pipefail; jq -r "$1" "$2" | "$3" -qd "$4" -c "$5"', "bash"),
            *("{jq_filter}", "{source}", "{psql}", "{address}", "copy {table} ({names}) from stdin (format csv)"),
        ),
        needs=("jq",),
    ),
    Variant(
        name="dlt ndjson",
        sample="ndjson",
        words=("{others}", str(_PROGRAMS / "dlt_load.py"), "{address}", DLT_SCHEMA, "{source}"),
        tables=(f"{DLT_SCHEMA}.shipments",),
        needs=("dlt",),
    ),
    CEILINGS[ITEMS],
    _APPEND_ITEMS,
    _etl("append items, 2 workers", "items", "--workers", "2", dataset=ITEMS),
    CEILINGS[CHILDREN],
    _APPEND_CHILDREN,
    CEILINGS[WHOLE],
    _APPEND_WHOLE,
)


@dataclass(frozen=True, kw_only=True)
class Programs:
    """The programs of this machine: the installed `etl`, and the Python of the environment with the others."""

    etl: Path
    python: Path
    others: Path

    @classmethod
    def installed(cls, others: Path) -> "Programs":
        """Return those beside the Python that runs this; `others` is the folder of the others' environment."""
        python = Path(sys.executable)
        return cls(etl=python.parent / "etl", python=python, others=others.absolute() / "bin" / "python")

    def missing(self) -> dict[str, str]:
        """Return why what is not here is not, by what a variant may need."""
        missing = {}
        output = subprocess.run([self.etl, "load", "--help"], capture_output=True, text=True, check=True)  # noqa: S603 - no shell
        for option in ("--workers", "--decoder"):
            if option not in output.stdout:
                missing[option] = f"this etl load has no {option}"
        versions = self.versions()
        for package in OTHERS:
            if package not in versions:
                missing[package] = f"{package} is not installed; make bench installs it"
        if not shutil.which("jq"):
            missing["jq"] = "jq is not installed"
        return missing

    def versions(self) -> dict[str, str]:
        """Return the versions of the other tools that are installed."""
        if not self.others.exists():
            return {}
        code = (
            "import importlib.metadata as m, json; "
            "names = {d.metadata['Name']: d.version for d in m.distributions()}; print(json.dumps(names))"
        )
        output = subprocess.run([self.others, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - no shell
        found = json.loads(output.stdout)
        return {name: found[name] for name in OTHERS if name in found}

    def words(self, columns: Mapping[str, str]) -> dict[str, str]:
        """Return the values of the `{names}` of programs and columns; `columns` are paths by name."""
        lineage = ("etl_run", "etl_batch", "etl_place")
        paths = [f".{path}" for path in columns.values()] + ["0"] * len(lineage)
        return {
            "etl": str(self.etl),
            "python": str(self.python),
            "others": str(self.others),
            "psql": str(binary("psql")),
            "table": TABLES[PLAIN][0],
            "names": ", ".join((*columns, *lineage)),
            "jq_filter": f"[{','.join(paths)}] | @csv",
        }
