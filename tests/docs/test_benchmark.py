import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from etl import datasets
from scripts.benchmark import cliffs, database, files, nights, partitions, processes, report, samples
from scripts.benchmark.report import Figure, Measure, Outcome
from scripts.benchmark.variants import SCALED, START_UPS, VARIANTS, Programs
from tests.support.checkout import ROOT

PAGE = ROOT / "docs" / "performance.md"

HOLDS_MEMORY = """
import sys, subprocess
held = bytearray(b"x") * 40_000_000
child = None
if sys.argv[1] != "0":
    words = [sys.executable, "-c", sys.argv[2], str(int(sys.argv[1]) - 1), sys.argv[2]]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
print("ready", flush=True)
sys.stdin.read()
if child:
    child.communicate()
"""


def outcomes(*seconds: float, records: int = 100, peak_bytes: int = 0) -> dict[int, Outcome]:
    """Return the outcomes of rounds of this many seconds."""
    return {
        number: Outcome(records=records, seconds=taken, peak_bytes=peak_bytes)
        for number, taken in enumerate(seconds, start=1)
    }


def test_a_ratio_is_divided_round_by_round() -> None:
    """A ratio is the median of the ratios of all rounds, with the least and the greatest of them."""
    results = {"load": outcomes(2, 4, 10), "ceiling": outcomes(1, 1, 9)}
    assert report.ratio(results, "load", "ceiling") == Figure(value=0.5, low=0.25, high=0.9)
    assert report.rate(results, "load") == Figure(value=25, low=10, high=50)


def test_a_round_of_only_one_variant_gives_no_ratio() -> None:
    """A round counts in a ratio only when both variants have it; without any there is no ratio."""
    results = {"load": {2: Outcome(records=100, seconds=2)}, "ceiling": outcomes(9, 1), "other": outcomes(1)}
    assert report.ratio(results, "load", "ceiling") == Figure(value=0.5, low=0.5, high=0.5)
    assert report.ratio(results, "load", "other") is None
    assert report.ratio(results, "load", "absent") is None
    assert report.rate(results, "absent") is None


def test_rates_compare_loads_of_different_sizes() -> None:
    """A variant that loads fewer records is compared by its rate, not by its time."""
    results = {"small": outcomes(1, records=10), "large": outcomes(1, records=100)}
    assert report.ratio(results, "small", "large") == Figure(value=0.1, low=0.1, high=0.1)


def test_the_best_of_several_variants_counts() -> None:
    """A measure over several variants is that of the best one, also when one of them was not measured."""
    measure = Measure(what="", over=("one", "two", "three"), under="ceiling", must=0.5, aim=1)
    results = {"one": outcomes(4), "two": outcomes(2), "ceiling": outcomes(1)}
    assert measure.figure(results) == Figure(value=0.5, low=0.5, high=0.5)


@pytest.mark.parametrize(
    ("measure", "verdicts"),
    [
        (
            Measure(what="", over=("a",), under="b", must=0.8, aim=1.0),
            {0.79: "**not reached**", 0.8: "reached", 1.0: "aim reached"},
        ),
        (
            Measure(what="", over=("a",), must=200, aim=100, kind="memory"),
            {201: "**not reached**", 200: "reached", 100: "aim reached"},
        ),
        (
            Measure(what="", over=("a",), under="b", must=8, aim=5, kind="time"),
            {8.1: "**not reached**", 6: "reached", 4: "aim reached"},
        ),
    ],
    ids=["rate", "memory", "time"],
)
def test_a_verdict_knows_which_way_is_better(measure: Measure, verdicts: Mapping[float, str]) -> None:
    """A rate must be at least the goal; time and memory must be at most the goal."""
    assert {value: measure.verdict(Figure.of([value])) for value in verdicts} == verdicts
    assert measure.verdict(None) == "not measured"


def test_time_is_reported_as_a_multiple() -> None:
    """A variant that takes twice as long has a time of 2; memory is the MB of the variant that took the most."""
    results = {"help": outcomes(2), "pass": outcomes(1), "load": outcomes(1, peak_bytes=120_000_000)}
    time = Measure(what="", over=("help",), under="pass", must=8, aim=5, kind="time")
    assert time.figure(results) == Figure(value=2, low=2, high=2)
    memory = Measure(what="", over=("help", "load", "absent"), must=200, aim=100, kind="memory")
    assert memory.figure(results) == Figure(value=120, low=120, high=120)


def test_the_table_of_measures_names_missing_ones() -> None:
    """Each measure has its line, with its figure and verdict or with `not measured`."""
    results = {"etl append array": outcomes(2, 2, peak_bytes=90_000_000), "ceiling": outcomes(1.8, 1.9)}
    lines = list(report.measures_table(results))
    assert len(lines) == 2 + len(report.MEASURES)
    assert "| append, default settings, array / ceiling | 0.80 | 1.00 | 0.93 | 0.90 to 0.95 | reached |" in lines
    assert "| append, default settings, NDJSON / ceiling | 0.80 | 1.00 |  |  | not measured |" in lines
    assert any("| 200 MB | 100 MB | 90 MB | 90 MB to 90 MB | aim reached |" in line for line in lines)


def test_the_table_of_variants_gives_reasons_for_omissions() -> None:
    """Each variant has its line in the order of the ceilings, with rate, ratio and memory, or with a reason."""
    results = {"ceiling": outcomes(1), "load": outcomes(2, peak_bytes=50_000_000)}
    names = dict.fromkeys(("ceiling", "load", "duckdb"), "ceiling")
    assert list(report.variants_table(results, names, {"duckdb": "it is not installed"}))[2:] == [
        "| ceiling | 100 | 1.00 | 1.00 to 1.00 | 0 MB |",
        "| load | 50 | 0.50 | 0.50 to 0.50 | 50 MB |",
        "| duckdb | it is not installed | | | |",
    ]


def test_every_table_has_as_many_cells_as_its_head() -> None:
    """No name of a variant or measure breaks the columns of its table."""
    results = {each.name: outcomes(1) for each in VARIANTS}
    names = dict.fromkeys(results, "ceiling")
    for lines in (report.measures_table(results), report.variants_table(results, names, {})):
        assert len({line.count("|") for line in lines}) == 1


def test_flatness_compares_the_large_sizes() -> None:
    """The growth of memory from the smallest large size to the largest is reported; small sizes do not count."""
    results = {
        size: {"load": outcomes(1, peak_bytes=peak)}
        for size, peak in ((100_000, 10), (1_000_000, 100), (10_000_000, 105))
    }
    assert report.flatness(results, "load") == pytest.approx(0.05)
    assert report.flatness(results, "absent") is None
    assert [line.split(" | ")[0] for line in report.scale_table(results)][2:] == [
        "| 100,000",
        "| 1,000,000",
        "| 10,000,000",
    ]


def test_a_part_of_the_page_is_replaced() -> None:
    """Only the text between the marks is replaced, any number of times; without marks it is an error."""
    page = "before\n<!-- measured: scale -->\nold\n<!-- end of scale -->\nafter\n"
    once = report.with_part(page, "scale", ["| a |", r"| \1 |"])
    assert once == "before\n<!-- measured: scale -->\n\n| a |\n| \\1 |\n\n<!-- end of scale -->\nafter\n"
    assert report.with_part(once, "scale", ["| a |", r"| \1 |"]) == once
    with pytest.raises(ValueError, match="one place for the measured benchmark"):
        report.with_part(page, "benchmark", [])


@pytest.mark.parametrize("name", ["benchmark", "scale"])
def test_the_page_has_a_place_for_each_table(name: str) -> None:
    """docs/performance.md has the marks for each table of the benchmark."""
    assert "| new |" in report.with_part(PAGE.read_text(encoding="utf-8"), name, ["| new |"])


def test_every_measure_names_variants_that_exist() -> None:
    """No measure stays `not measured` because of a name that no variant has."""
    known = {each.name for each in VARIANTS} | START_UPS.keys()
    assert {name for measure in report.MEASURES for name in (*measure.over, measure.under) if name} - known == set()
    assert set(SCALED) <= known


@pytest.fixture
def holding() -> Iterator[int]:
    """Run a process that holds 40 MB, with a child and a grandchild that hold as much; give its id."""
    words = [sys.executable, "-c", HOLDS_MEMORY, "2", HOLDS_MEMORY]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate()


def test_memory_is_summed_over_the_tree(holding: int) -> None:
    """The memory of a process is that of the process and its descendants, and of no other."""
    tree = processes.Tree(holding)
    assert 120_000_000 < tree.pss_bytes() < 200_000_000
    assert 120_000_000 < tree.pss_bytes() < 200_000_000


def test_an_ended_process_holds_no_memory() -> None:
    """A tree of ended processes holds no memory."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    tree = processes.Tree(process.pid)
    process.wait()
    assert tree.pss_bytes() == 0


def test_a_run_gives_exit_code_time_memory_and_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run gives the exit code of the program, its time and its peak memory; its output is in a file."""
    seen = tmp_path / "seen"
    measured = processes.Tree.pss_bytes

    def note(tree: processes.Tree) -> int:
        held = measured(tree)
        if held > 30_000_000:
            seen.touch()
        return held

    monkeypatch.setattr(processes.Tree, "pss_bytes", note)
    code = (
        "import os, sys\nheld = bytearray(b'x') * 30_000_000\nwhile not os.path.exists('seen'): pass\nsys.exit('told')"
    )
    output = tmp_path / "output"
    run = processes.run([sys.executable, "-c", code], environment=os.environ, folder=tmp_path, output=output)
    assert run.exit_code == 1
    assert 0 < run.seconds < 60
    assert run.peak_bytes > 30_000_000
    assert output.read_text() == "told\n"


@pytest.mark.parametrize("name", samples.RECIPES)
def test_a_sample_is_what_its_recipe_says(name: str, tmp_path: Path) -> None:
    """A sample has the requested number of records, and knows the number of rows and the sum of kilograms."""
    made = samples.make(name, 700, tmp_path)
    recipe = samples.RECIPES[name]
    path = Path(made.path)
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    records = json.loads(text) if recipe.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    assert len(records) == made.records == 700
    good = [
        each
        for each in records
        if each["weight_kg"] > 0 and isinstance(each["freight_cost"], int | float) and "\0" not in each["carrier"]
    ]
    assert len(good) == made.rows[0]
    assert (len(good) < 700) == (recipe.fault != "none")
    assert round(sum(each["weight_kg"] for each in good) * 1000) == made.grams
    children = {"items": recipe.items, "stops": recipe.stops}
    for name_of, count in children.items():
        assert {len(each.get(name_of, [])) for each in records} == {count}
    assert made.rows[1:] == tuple(len(good) * count for count in children.values() if count)


def test_a_sample_is_made_once(tmp_path: Path) -> None:
    """A complete sample is used again; one without its manifest is made again."""
    made = samples.make("ndjson", 10, tmp_path)
    Path(made.path).write_text("as it is")
    assert samples.make("ndjson", 10, tmp_path) == made
    assert Path(made.path).read_text() == "as it is"
    (tmp_path / "ndjson-10.manifest").unlink()
    assert samples.make("ndjson", 10, tmp_path) == made
    assert Path(made.path).stat().st_size == made.bytes


def test_the_definitions_are_the_shipped_ones(tmp_path: Path) -> None:
    """The datasets of the benchmark append, have the columns of the shipped one, and have no index except the key."""
    database.write_definitions(tmp_path)
    shipped = datasets.find("shipments", ROOT / "config")
    for name, tables in database.TABLES.items():
        dataset = datasets.find(name, tmp_path)
        assert (dataset.mode, dataset.key) == ("append", ("shipment_id",))
        assert tuple(table.name for table in dataset.tables) == tables
        for table, model in zip(dataset.tables, shipped.tables, strict=False):
            columns = [column for column in table.columns if column.value_path.sign != "."]
            assert columns == list(model.columns)
            assert (len(table.columns) > len(columns)) == (name == database.WHOLE)
            assert table.index == ()
    assert database.paths(tmp_path)["origin_city"] == "origin.city"


def test_programs_get_no_settings_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measured program gets the database and the definitions of the benchmark, and no settings of the caller."""
    for name in ("PGHOST", "DATABASE_URL", "ETL_DATABASE_URL", "ETL_BATCH_ROWS"):
        monkeypatch.setenv(name, "somebody's")
    given = database.environment("address", tmp_path)
    assert "somebody's" not in given.values()
    assert given["ETL_DATABASE_URL"] == "address"


def test_missing_tools_are_reported(tmp_path: Path) -> None:
    """Without the environment of the other tools, each of them is left out with a reason."""
    missing = Programs.installed(tmp_path).missing()
    assert {name: "not installed" in missing[name] for name in ("duckdb", "polars", "dlt")} == {
        "duckdb": True,
        "polars": True,
        "dlt": True,
    }


@pytest.mark.slow
def test_a_short_benchmark_ends_with_its_tables(tmp_path: Path) -> None:
    """A comparison of a few variants loads real data, checks the loaded rows and prints both tables."""
    words = [
        "--records",
        "200",
        "--rounds",
        "1",
        "--only",
        "ceiling$|append array$|bad by|items$|child tables$|whole|pass|help",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmark", "compare", *words, "--folder", str(tmp_path / "bench")],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in (
        "ceiling",
        "etl append array",
        "etl append items",
        "etl append two child tables",
        "etl append 1 % bad by CHECK",
        "etl append 1 % bad by NUL",
        "etl append with whole records",
    ):
        assert f"| {name} | " in done.stdout
        assert f"| {name} | not measured" not in done.stdout
    assert "| duckdb array | not measured" in done.stdout
    assert str(tmp_path) not in done.stdout


def test_a_folder_of_small_files_is_made_of_sources_of_their_own(tmp_path: Path) -> None:
    """Each file of a folder has its number of records, no two files are equal, and a night is shown by the file."""
    folder = files.Folder(files=3, records=2).make(tmp_path)
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())]
    assert [text.count("\n") for text in texts] == [2, 2, 2]
    assert len({line for text in texts for line in text.splitlines()}) == 6
    night = files.Night(
        what="3 files", files=3, seconds=1.5, peak_bytes=9_000_000, statements=4, ledger_bytes=5, log_bytes=6
    )
    assert list(files.table([night]))[-1] == "| 3 files | 500.00 | 2 | 4.0 | 5 | 6 | 9 MB |"


def test_partitions_are_compared_with_the_same_plain_tables(tmp_path: Path) -> None:
    """The definitions differ in partition_by alone, files in the order of their records; the table has a verdict."""
    database.write_definitions(tmp_path)
    for tables in partitions.ALL:
        tables.write(tmp_path)
        dataset = datasets.read(tmp_path / "datasets" / f"{tables.dataset}.toml")
        assert [table.name for table in dataset.tables] == tables.names
        assert {table.partition_by for table in dataset.tables} == {"created_at" if tables.is_divided else None}
        assert dataset.key == ("shipment_id", "created_at")
    for has_items in (False, True):
        random, ordered = (
            partitions._file(tmp_path, 200, order, has_items=has_items).read_text().splitlines()
            for order in ("random", "ordered")
        )
        assert (len(random), sorted(random), '"items":' in random[0]) == (200, sorted(ordered), has_items)
        created = [json.loads(line)["created_at"] for line in ordered]
        assert created == sorted(created)
    share = partitions.Share(what="append", rates=[1, 2, 3], shares=[0.9, 0.91, 0.99], cpu=[1, 1, 1])
    *_, line = partitions.table([share])
    assert line == "| append | 2 | 0.91 | 0.90 to 0.99 | 0.92 | 1.00 | **not reached** |"


def test_an_export_of_a_later_night_differs_in_some_records(tmp_path: Path) -> None:
    """It has all records in another order, the changed ones on few days, and new ones; the table has all figures."""
    exports = nights.Exports(folder=tmp_path, records=300)
    exports.make_first()
    first = exports.first.read_text().splitlines()
    second = exports.later("second", 1, changed=0.02, new=0.01).read_text().splitlines()
    assert (len(first), len(second), len(set(second) - set(first))) == (300, 303, 6 + 3)
    assert [line for line in second if line in set(first)] != first
    assert set(exports.later("third", 2, changed=1.0).read_text().splitlines()).isdisjoint(first)
    names = [name for _, name, *_ in nights._ROWS]
    lines = list(nights.table([dict.fromkeys([*names, "first", "second"], 1.0)]))
    assert len(lines) == 2 + len(names) + 2
    assert "**not reached**" in lines[2]


def test_every_shape_of_a_file_is_read_as_it_says(tmp_path: Path) -> None:
    """Each row has a file and a definition, of which every record is read; the table has a line for each row."""
    shares = cliffs.Cliffs(tmp_path, 200).shares(cliffs.CLIFFS, 1, lambda _: None)
    assert set(shares) == {cliff.what for cliff in cliffs.CLIFFS}
    assert all(share > 0 for measured in shares.values() for share in measured)
    bases = {cliff.base for cliff in cliffs.CLIFFS}
    assert len(list(cliffs.table(shares))) == 2 + len(set(shares) - bases)


def test_the_ledger_is_measured(tmp_path: Path) -> None:
    """Each measure is printed: what the comparison costs, what the ledger grows by, and known sources among runs."""
    words = ["--small", "3", "--runs", "100", "--records", "2000", "--megabytes", "1"]
    command = [sys.executable, "-m", "scripts.measure_ledger", str(tmp_path), *words]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    measured = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert len(measured) == 4 + 2 * 3
    assert [each["measure"] for each in measured if "the same source, known" in each["measure"]] == [
        "the same source, known (within)",
    ] * 2
