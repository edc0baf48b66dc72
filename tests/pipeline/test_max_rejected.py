from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from etl.errors import UsageError
from etl.settings import Limit
from tests.support.site import Site

PARCELS = """
name = "parcels"
mode = "append"
key = ["parcel_id"]
[[table]]
name = "lab.parcels"
[table.columns]
parcel_id = { type = "text", required = true }
weight_kg = { type = "numeric", min = 0 }
"""


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site that has the table of `parcels`."""
    site.define(PARCELS)
    return site


def _load(site: Site, name: str, *options: str, env: Mapping[str, str] | None = None) -> tuple[dict[str, Any], str]:
    """Load a source; return its summary, and the errors on stderr."""
    done = site.run("--log-level", "error", "load", "parcels", name, "--json", *options, env=env)
    return done.summary, done.stderr


def _write(site: Site, name: str, size: int, bad: Sequence[int]) -> None:
    """Write `size` parcels of which those with the numbers of `bad` are bad."""
    signs = dict.fromkeys(bad, "-")
    lines = (f'{{"parcel_id": "P{n}", "weight_kg": {signs.get(n, "")}1}}\n' for n in range(1, size + 1))
    (site.folder / name).write_text("".join(lines))


def _count(site: Site) -> int:
    """Count the parcels that are loaded."""
    return int(site.value("select count(*) from lab.parcels"))


def _counts(summary: dict[str, Any]) -> tuple[int, str, int, int, int]:
    records = summary["records"]
    return summary["exit_code"], summary["status"], records["read"], records["loaded"], records["rejected"]


def test_a_share_is_judged_from_ten_thousand_records_on(site: Site) -> None:
    """From 10,000 records on, a load with more than 10 % rejected stops; an earlier share does not matter."""
    _write(site, "many.ndjson", 14_000, range(1, 1_002))
    summary, err = _load(site, "many.ndjson", "--batch-rows", "1000")
    assert _counts(summary) == (5, "aborted", 10_000, 8_999, 1_001)
    assert summary["records"]["pending"] == 1_001
    assert "error: parcels: 1,001 of 10,000 records are rejected, --max-rejected allows 10%" in err
    assert f"hint: etl failed show --run {summary['run']} shows the reasons; a higher --max-rejected continues" in err
    assert _count(site) == 8_999
    assert site.value("select count(*) from etl.runs where finished_at is null") == 1


def test_a_share_that_falls_in_time_does_not_stop_the_load(site: Site) -> None:
    """Bad records at the beginning do not stop a load: they are a tenth of the first 10,000, less of the whole."""
    _write(site, "few.ndjson", 10_500, range(1, 1_001))
    summary, err = _load(site, "few.ndjson", "--batch-rows", "2000")
    assert (*_counts(summary), err) == (1, "loaded_with_rejects", 10_500, 9_500, 1_000, "")


@pytest.mark.parametrize(
    ("size", "bad", "exit_code"),
    [
        (100, 100, 1),
        (101, 10, 1),
        (101, 11, 5),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in ((200, 20, 1), (200, 21, 5), (9_999, 1_000, 5), (9_999, 999, 1))
        ),
    ],
)
def test_a_share_is_judged_at_the_end_of_more_than_a_hundred(site: Site, size: int, bad: int, exit_code: int) -> None:
    """Below 10,000 records the share is judged at the end, and of 100 or fewer records never."""
    _write(site, "parcels.ndjson", size, range(size - bad + 1, size + 1))
    summary, _ = _load(site, "parcels.ndjson", "--batch-rows", "3000")
    status = "aborted" if exit_code == 5 else "loaded_with_rejects"
    assert _counts(summary) == (exit_code, status, size, size - bad, bad)
    assert _count(site) == size - bad
    # The same command with a higher limit records the end of the run, and doubles nothing.
    again, _ = _load(site, "parcels.ndjson", "--max-rejected", "100%")
    assert (again["exit_code"], again["records"]["loaded"], again["records"]["skipped"]) == (1, 0, size)
    assert again["status"] == ("loaded_with_rejects" if exit_code == 5 else "already_loaded")
    assert _count(site) == size - bad
    assert site.value("select count(*) from etl.runs where finished_at is null") == 0


@pytest.mark.parametrize(
    ("limit", "exit_code", "read"),
    [
        ("0", 5, 10),
        ("2", 5, 50),
        ("3", 1, 60),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("1", 5, 20), ("4", 1, 60))),
    ],
)
def test_a_number_is_judged_after_each_batch(site: Site, limit: str, exit_code: int, read: int) -> None:
    """One rejected record more than the number allows stops the load after its batch."""
    _write(site, "parcels.ndjson", 60, [4, 15, 46])
    summary, err = _load(site, "parcels.ndjson", "--batch-rows", "10", "--max-rejected", limit)
    rejected = sum(number <= read for number in (4, 15, 46))
    assert _counts(summary)[0] == exit_code
    assert _counts(summary)[2:] == (read, read - rejected, rejected)
    assert _count(site) == read - rejected
    assert (f"--max-rejected allows {limit}" in err) == (exit_code == 5)


def test_a_limit_of_zero_accepts_a_clean_source(site: Site) -> None:
    """A limit of 0 or 0 % accepts a clean source; 100 % accepts every source."""
    _write(site, "clean.ndjson", 150, [])
    assert _load(site, "clean.ndjson", "--max-rejected", "0")[0]["exit_code"] == 0
    _write(site, "clean2.ndjson", 151, [])
    site.ask("truncate lab.parcels")
    assert _load(site, "clean2.ndjson", "--max-rejected", "0%", "--force")[0]["exit_code"] == 0
    _write(site, "bad.ndjson", 150, range(1, 151))
    assert _load(site, "bad.ndjson", "--max-rejected", "100%")[0]["exit_code"] == 1


def test_all_attempts_of_a_run_count(site: Site) -> None:
    """Rejects of earlier attempts count; after exit 5 a higher limit continues the run and nothing is doubled."""
    _write(site, "parcels.ndjson", 300, [1, 2, 201, 202, 203, 290])
    text = (site.folder / "parcels.ndjson").read_text()
    (site.folder / "parcels.ndjson").write_text(text[: text.index('"P151"')])
    options = ("--batch-rows", "50", "--max-rejected")
    cut, _ = _load(site, "parcels.ndjson", *options, "4")
    assert _counts(cut) == (3, "incomplete", 150, 148, 2)
    (site.folder / "parcels.ndjson").write_text(text)
    stopped, err = _load(site, "parcels.ndjson", *options, "4")
    assert "5 of 250 records are rejected, --max-rejected allows 4" in err
    assert _counts(stopped) == (5, "aborted", 250, 97, 3)
    assert (stopped["run"], stopped["records"]["skipped"]) == (cut["run"], 150)
    more, err = _load(site, "parcels.ndjson", *options, "5")
    assert "6 of 300 records are rejected, --max-rejected allows 5" in err
    assert _counts(more) == (5, "aborted", 300, 49, 1)
    done, _ = _load(site, "parcels.ndjson", *options, "6")
    assert _counts(done) == (1, "loaded_with_rejects", 300, 0, 0)
    assert (done["run"], done["records"]["skipped"], done["records"]["pending"]) == (cut["run"], 300, 6)
    assert _count(site) == 294
    [shown] = site.run("runs", "show", cut["run"], "--json").lines
    assert [attempt["exit_code"] for attempt in shown["attempts"]] == [3, 5, 5, 1]


def test_a_replayed_record_counts_no_more(site: Site) -> None:
    """A replay subtracts its records from the count: the same command continues with the same limit."""
    _write(site, "parcels.ndjson", 40, [3, 4, 12])
    assert _load(site, "parcels.ndjson", "--batch-rows", "10", "--max-rejected", "1")[0]["exit_code"] == 5
    assert _count(site) == 8
    [path] = site.store.rglob("*.ndjson")
    path.write_text(path.read_text().replace("-1", "1"))
    assert site.run("failed", "replay", "--all").returncode == 0
    done, _ = _load(site, "parcels.ndjson", "--batch-rows", "10", "--max-rejected", "1")
    assert _counts(done) == (1, "loaded_with_rejects", 40, 29, 1)
    assert _count(site) == 39


def test_what_the_server_rejects_counts_and_a_failed_batch_does_not(site: Site) -> None:
    """Records that the server refuses count like others; records of a failed batch do not count."""
    site.ask("alter table lab.parcels add constraint by_hand check (parcel_id <> 'P7')")
    site.on_insert("lab.parcels", "new.parcel_id = 'P15'", "raise 'busy' using errcode = '57014';")
    _write(site, "parcels.ndjson", 30, [3])
    options = ("--batch-rows", "10", "--retry-attempts", "1", "--max-rejected")
    stopped, err = _load(site, "parcels.ndjson", *options, "1")
    assert "2 of 10 records are rejected" in err
    assert _counts(stopped) == (5, "aborted", 10, 8, 2)
    summary, _ = _load(site, "parcels.ndjson", *options, "2")
    assert _counts(summary) == (1, "loaded_with_rejects", 30, 10, 0)
    assert (summary["records"]["failed"], summary["records"]["pending"]) == (10, 12)


@pytest.mark.parametrize("arguments", [("--atomic",), ("--mode", "replace")], ids=["atomic", "replace"])
@pytest.mark.parametrize("limit", ["10%", pytest.param("20", marks=pytest.mark.slow)])
def test_too_many_rejects_leave_the_facts_of_an_atomic_run(site: Site, arguments: tuple[str, ...], limit: str) -> None:
    """With --atomic and replace, too many rejects leave the facts unchanged; a higher limit loads all."""
    (site.folder / "before.ndjson").write_text('{"parcel_id": "A"} {"parcel_id": "B"} {"parcel_id": "C"}')
    _load(site, "before.ndjson")
    _write(site, "parcels.ndjson", 200, range(101, 130))
    stopped, _ = _load(site, "parcels.ndjson", "--batch-rows", "40", "--max-rejected", limit, *arguments)
    read = 200 if limit == "10%" else 160
    rejected = min(29, read - 100)
    assert _counts(stopped) == (5, "aborted", read, 0, rejected)
    assert stopped["records"]["withheld"] == read - rejected
    assert _count(site) == 3
    done, _ = _load(site, "parcels.ndjson", "--batch-rows", "40", "--max-rejected", "29", *arguments)
    assert (done["exit_code"], done["status"], done["records"]["pending"]) == (1, "loaded_with_rejects", 29)
    assert _count(site) == 171 + (0 if "replace" in arguments else 3)


def test_the_limit_comes_from_the_environment_or_the_file_too(site: Site) -> None:
    """A flag beats ETL_MAX_REJECTED, which beats max_rejected of etl.toml."""
    (site.folder / "config" / "etl.toml").write_text('max_rejected = "1"\n')
    _write(site, "parcels.ndjson", 30, [1, 2, 3])
    assert "allows 1" in _load(site, "parcels.ndjson")[1]
    env = {"ETL_MAX_REJECTED": "2"}
    assert "allows 2" in _load(site, "parcels.ndjson", env=env)[1]
    assert _load(site, "parcels.ndjson", "--max-rejected", "3", env=env)[0]["exit_code"] == 1


def test_an_invalid_limit_is_wrong_usage(site: Site) -> None:
    """A limit that is neither a number nor a percentage up to 100 % is exit 2, and no run begins."""
    _write(site, "parcels.ndjson", 3, [])
    for limit in ("-1", "101%", "100.1%", "ten", "", "%", "10 %", "1e3", "1.5", "-5%", "0x10", "10%%", "NaN%"):
        done = site.run("load", "parcels", "parcels.ndjson", f"--max-rejected={limit}")
        assert (done.returncode, done.stdout) == (2, ""), limit
        assert "--max-rejected" in done.stderr
    assert site.value("select count(*) from etl.runs") == 0


@pytest.mark.parametrize(
    ("text", "rejected", "read", "at_end", "exceeded"),
    [
        ("10%", 1_000, 10_000, False, False),
        ("10%", 1_001, 10_000, False, True),
        ("10%", 9_999, 9_999, False, False),
        ("10%", 9_999, 9_999, True, True),
        ("10%", 100, 100, True, False),
        ("10%", 11, 101, True, True),
        ("0%", 1, 10_000, False, True),
        ("0%", 0, 10_000, True, False),
        ("2.5%", 250, 10_000, False, False),
        ("2.5%", 251, 10_000, False, True),
        ("100%", 50_000, 50_000, True, False),
        ("0", 1, 1, False, True),
        ("0", 0, 1, True, False),
        ("7", 7, 7, True, False),
        ("7", 8, 1_000_000, False, True),
    ],
)
def test_when_a_limit_is_exceeded(text: str, rejected: int, read: int, at_end: bool, exceeded: bool) -> None:
    """One reject more exceeds a number; a higher share exceeds a percentage of 10,000 records, or of 101 at the end."""
    assert Limit.read(text).is_exceeded(rejected, read, at_end=at_end) is exceeded


def test_a_limit_is_shown_as_it_was_given() -> None:
    """The text of a limit is the text that the user gave."""
    assert [str(Limit.read(text)) for text in ("0", "12", "2.50%", "100%")] == ["0", "12", "2.5%", "100%"]
    with pytest.raises(UsageError, match="expects a number or a percentage"):
        Limit.read("a few")
