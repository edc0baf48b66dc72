"""From the mail of cron to the repaired record: two commands and one edit, each on a screen of 80 columns and 24 lines.

A printed command is pasted as it is, by a person who has nothing else of the job: another folder, no variables.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.cli.conftest import PARCELS
from tests.support.site import Site
from tests.support.terminal import on_terminal, rows_of, shell_on_terminal
from tests.support.waiting import until

COLUMNS, LINES = 80, 24

WEIGHED = f'{PARCELS}kg = {{ type = "integer", min = 0 }}\n'


class Operator:
    """A person with a mail and a terminal."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.folder = site.folder / "home"
        self.folder.mkdir()
        self._path = f"{Path(sys.executable).parent}:/usr/bin:/bin"

    def mail_of(self, *words: str, env: dict[str, str | None] | None = None) -> str:
        """Run `etl WORDS` as cron does, and return what cron mails: both streams, without a terminal."""
        environment = self.site.environment(env) | {"PATH": self._path, "SHELL": "/bin/sh"}
        script = f"cd {shlex.quote(str(self.site.folder))} && etl {shlex.join(words)} 2>&1"
        done = subprocess.run(
            ["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert "Traceback" not in done.stdout
        return done.stdout

    def types(self, command: str, **env: str) -> str:
        """Paste a command into the terminal; return what is below it on the screen, from which nothing scrolled away.

        Lines that the terminal breaks are whole again, as they are when they are copied.
        """
        place = self.site.folder / "place of the shell"
        environment = {"PATH": self._path, "HOME": str(self.site.folder), "TERM": "xterm", **env}
        output = shell_on_terminal(
            f"{command}\npwd > {shlex.quote(str(place))}",
            env=environment,
            cwd=self.folder,
            columns=COLUMNS,
            lines=LINES,
        )
        self.folder = Path(place.read_text().rstrip("\n"))
        assert len(rows_of(output, COLUMNS)) < LINES, output
        return output.replace("\r\n", "\n")


def first_command(mail: str) -> str:
    """Return the command that a mail names for the refused records: the last words of its line."""
    [*_, command] = re.findall(r"(?:wait in the failed store|all that wait): (.*)$", mail, re.MULTILINE)
    return str(command)


def next_command(screen: str, title: str = "load them") -> str:
    """Return the command that a screen names below a title."""
    [line] = re.findall(rf"^(?:or )?{title}:\n  (.*)$", screen, re.MULTILINE)
    return str(line)


def files_of(screen: str) -> list[str]:
    """Return the paths of the files to correct, as a shell takes them."""
    return re.findall(r"^  (.*\.ndjson'?)$", screen, re.MULTILINE)


@pytest.fixture
def weighed(site: Site) -> Site:
    """A site with a dataset that rejects negative weights."""
    site.define(WEIGHED)
    return site


def write(site: Site, name: str, bad: int, good: int = 1, prefix: str = "P") -> None:
    """Write a source whose first records are rejected."""
    records = [{"parcel_id": f"{prefix}{number}", "kg": -5 if number < bad else 5} for number in range(bad + good)]
    (site.folder / name).write_text("".join(f"{json.dumps(record)}\n" for record in records))


def screen_of(site: Site, command: str, env: dict[str, str | None] | None = None) -> str:
    """Return what a printed command shows on the screen, on which all of it must be; it runs in this process."""
    words = shlex.split(command.rpartition(" && ")[2])
    _, output = on_terminal(words[1:], env=site.environment(env), cwd=site.folder, columns=COLUMNS, lines=LINES)
    assert len(rows_of(output, COLUMNS)) < LINES, output
    return output.replace("\r\n", "\n")


def test_one_record_takes_two_commands_and_one_edit(weighed: Site) -> None:
    """The mail names the first command; it shows the fault, the file and the second one, which loads the record."""
    site, operator = weighed, Operator(weighed)
    write(site, "feed.ndjson", bad=1)
    screen = operator.types(first_command(operator.mail_of("load", "parcels", "feed.ndjson")))
    assert "record 1 at byte 0, key unknown" in screen
    assert "23514 logistics.parcels.kg: expected 0 or more" in screen
    assert '{"parcel_id": "P0", "kg": -5}' in screen
    [file] = files_of(screen)
    operator.types(f"sed -i 's/-5/5/' {file}")
    assert "1 loaded, 0 refused again" in operator.types(next_command(screen))
    assert site.ask("select parcel_id, kg from logistics.parcels order by 1") == [("P0", 5), ("P1", 5)]


def test_names_are_quoted_and_passwords_are_left_out(weighed: Site) -> None:
    """The printed commands have the options of the job, quoted for a shell, but not the password of the address."""
    site = weighed
    write(site, "it's a $feed.ndjson", bad=1)
    (site.folder / "config").rename(site.folder / "our config")
    where = conninfo_to_dict(site.conninfo)
    address = f"postgresql://{where['user']}:s3cret@/{where['dbname']}?host={where['host']}&port={where['port']}"
    options = ["--config-dir", "our config", "--database", address]
    load = ["load", "parcels", "it's a $feed.ndjson", "--failed-dir", "it's kept"]
    mail = site.run(*options, *load, env={"ETL_DATABASE_URL": None}).stdout
    command = first_command(mail)
    assert shlex.split(command)[-6:-1] == ["--failed-dir", "it's kept", "--config-dir", "our config", "--database"]
    screen = screen_of(site, command, {"ETL_DATABASE_URL": None})
    [file] = files_of(screen)
    path = site.folder / shlex.split(file)[0]
    path.write_text(path.read_text().replace("-5", "5"))
    last = screen_of(site, next_command(screen), {"ETL_DATABASE_URL": None})
    assert "1 loaded, 0 refused again" in last
    assert site.value("select count(*) from logistics.parcels") == 2
    assert "s3cret" not in mail + screen + last
    assert "give it by ~/.pgpass or PGPASSWORD" in mail


def test_three_files_are_on_one_screen(weighed: Site) -> None:
    """Three sources with refused records: the last line of the mail shows all, one edit and one command repair them."""
    site = weighed
    for name in "abc":
        write(site, f"{name}.ndjson", bad=1, prefix=name)
    done = site.run("load", "parcels", "a.ndjson", "b.ndjson", "missing.ndjson", "c.ndjson")
    assert done.returncode == 3
    screen = screen_of(site, first_command(done.stdout))
    assert "record 1 at byte 0" in screen
    assert len(files_of(screen)) == 3
    for file in files_of(screen):
        path = site.folder / shlex.split(file)[0]
        path.write_text(path.read_text().replace("-5", "5"))
    assert screen_of(site, next_command(screen)).count("1 loaded, 0 refused again") == 3
    assert site.value("select count(*) from logistics.parcels") == 6


@pytest.mark.slow
def test_five_thousand_records_are_counted(weighed: Site) -> None:
    """Of many refused records and files a screen shows the first ones, and counts the others by their fault."""
    site = weighed
    write(site, "feed.ndjson", bad=5_000)
    options = ["--max-rejected", "100%", "--batch-rows", "1000", "--workers", "1", "--no-precalculate"]
    done = site.run("load", "parcels", "feed.ndjson", *options)
    screen = screen_of(site, first_command(done.stdout))
    assert "record 1 at byte 0" in screen
    [rest] = re.findall(r"^([\d,]+) more of 5,000 records", screen, re.MULTILINE)
    assert int(rest.replace(",", "")) == 5_000 - screen.count("\nrecord ")
    assert "5,000 x 23514 logistics.parcels.kg: expected 0 or more" in screen
    assert re.search(r"and \d+ more in failed/parcels/", screen)
    (site.folder / "failed").rename(site.folder / ("kept " * 9))
    words = ["failed", "show", "--dataset", "parcels", "--failed-dir", "kept " * 9, "--database", site.conninfo]
    screen = screen_of(site, f"etl {shlex.join(words)}")  # Long names leave less room.
    assert "record 1 at byte 0" in screen
    assert shlex.split(next_command(screen))[-3:] == ["kept " * 9, "--database", site.conninfo]
    (site.folder / ("kept " * 9)).rename(site.folder / "failed")
    all_of_it = site.run("failed", "show", "--run", "latest").stdout
    assert all_of_it.count("\nrecord ") == 5_000
    assert "more of" not in all_of_it
    assert site.run("failed", "show", "--run", "latest", "--limit", "7").stdout.count("\nrecord ") == 7


def test_a_long_record_is_cut_on_a_screen_only(weighed: Site) -> None:
    """A record of many lines does not push the commands off the screen; --limit shows all of it."""
    site = weighed
    text = "x" * 5_000
    (site.folder / "feed.ndjson").write_text(json.dumps({"parcel_id": text, "kg": -5}))
    done = site.run("load", "parcels", "feed.ndjson", "--max-rejected", "100%")
    screen = screen_of(site, first_command(done.stdout))
    assert next_command(screen)
    assert " --reason WHY" in next_command(screen, "give them up")
    words = ["failed", "show", "--run", "latest", "--limit", "1"]
    _, whole = on_terminal(words, env=site.environment(), cwd=site.folder, columns=COLUMNS, lines=LINES)
    assert text in whole.replace("\r\n", "")


def test_files_are_named_in_the_same_way_everywhere(weighed: Site) -> None:
    """Show, replay and discard take ids, runs, a dataset or all; `latest` is the newest run, or that of a dataset."""
    site = weighed
    for name in ("a", "b", "c"):
        write(site, f"{name}.ndjson", bad=1, prefix=name)
        site.run("load", "parcels", f"{name}.ndjson", "--no-precalculate")
    (site.folder / "v.json").write_text('[{"vehicle_id": "V1"}]')
    site.run("load", "vehicles", "v.json", "--no-precalculate")
    first, second, third, newest = site.column("select run from etl.runs order by number")
    for words, expected in (
        (["--run", "latest"], []),
        (["--run", "latest", "--dataset", "parcels"], [third]),
        (["--run", first, "--run", "latest", "--dataset", "parcels"], [first, third]),
        (["--dataset", "parcels"], [first, second, third]),
        (["--all"], [first, second, third]),
        ([f"{second}-0-r"], [second]),
    ):
        shown = site.run("failed", "show", *words, "--json")
        assert shown.returncode == 0
        assert [each["run"] for each in shown.lines] == expected, words
    assert "nothing waits of latest in " in site.run("failed", "show", "--run", "latest").stdout
    assert site.run("failed", "list", "--run", "latest", "--dataset", "parcels", "--json").lines[0]["run"] == third
    assert site.run("runs", "show", "latest", "--json").lines[0]["run"] == newest
    assert site.run("runs", "trace", "logistics.vehicles", "--run", "latest", "--json").lines[0]["run"] == newest
    path = site.failures.path(f"{first}-0-r")
    path.rename(path.with_suffix(".away"))
    partly = site.run("failed", "show", "--all")  # A file that is missing hides no other.
    assert (partly.returncode, partly.stdout.count("\nrecord 1 ")) == (2, 2)
    assert f"cannot read failed/parcels/{first}/{first}-0-r.ndjson of the failed store" in partly.error
    path.with_suffix(".away").rename(path)
    replayed = site.run("failed", "replay", "--run", first, "--run", second, "--no-precalculate", "--json")
    assert [each["run"] for each in replayed.lines] == [first, second]
    words = ["failed", "discard", "--run", "latest", "--dataset", "parcels", "--reason", "test"]
    assert f"discarded {third}-0-r: 1 records" in site.run(*words).stdout
    assert site.run("failed", "show").returncode == 2


def test_nothing_that_waits_is_no_error(weighed: Site) -> None:
    """Without a file to discard, replay or show there is a sentence and exit code 0; without a run, `latest` is 2."""
    for words in (["show"], ["discard", "--reason", "test"], ["replay"], ["list"]):
        done = weighed.run("failed", *words, *([] if words == ["list"] else ["--all"]))
        assert (done.returncode, "nothing waits" in done.stdout + done.stderr) == (0, True), words
        done = weighed.run("failed", *words, "--run", "latest")
        assert (done.returncode, done.error) == (2, "error: there is no run yet hint: etl runs list"), words
    for words in (["show", "latest"], ["undo", "latest"], ["trace", "logistics.parcels", "--run", "latest"]):
        assert weighed.run("runs", *words).returncode == 2


def test_a_discard_waits_for_a_replay(weighed: Site) -> None:
    """Records that a replay is loading are not discarded: by their id it is an error, by their run a sentence."""
    site = weighed
    write(site, "feed.ndjson", bad=1)
    site.run("load", "parcels", "feed.ndjson", "--no-precalculate")
    [(run, failure)] = site.ask("select run, id from etl.failures")
    path = site.failures.path(failure)
    path.write_text(path.read_text().replace("-5", "5"))
    with site.gate("logistics.parcels", "in COPY", when="new.kg = 5") as gate:
        replay = site.start("failed", "replay", failure, "--no-precalculate")
        gate.reached()
        by_id = site.start("failed", "discard", failure, "--reason", "test")
        by_run = site.start("failed", "discard", "--run", run, "--reason", "test")
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query ~ 'discarded'"
        until(lambda: site.value(waiting) == 2, "the two discards")
        gate.open()
        assert replay.ended().returncode == 0
    ended = by_id.ended()
    assert (ended.returncode, f"{failure} does not wait: replayed" in ended.error) == (2, True)
    ended = by_run.ended()
    assert (ended.returncode, f"{failure} does not wait any more: replayed" in ended.stderr) == (0, True)
    assert site.failures.states() == {failure: "replayed"}


def test_the_error_is_the_last_thing_on_the_screen(weighed: Site) -> None:
    """A load that an error ended and that loaded nothing refreshes nothing; its error follows its summary."""
    site = weighed
    (site.folder / "cut.json").write_text('[{"parcel_id": "P1", "kg"')
    words = ["-q", "load", "parcels"]
    _, output = on_terminal([*words, "cut.json"], env=site.environment(), cwd=site.folder)
    summary, error, hint = output.split("\r\n")[:3]
    assert summary.startswith("incomplete parcels from cut.json")
    assert (error[:7], hint[:6]) == ("error: ", "hint: ")
    assert site.run("load", "parcels", "cut.json", "--json").lines[-1]["precalculated"] == []
    (site.folder / "cut.json").write_text('[{"parcel_id": "P1", "kg": 1}, {"parcel_id": "P2", "kg"')
    _, output = on_terminal([*words, "cut.json"], env=site.environment(), cwd=site.folder)
    assert [line.split()[0] for line in output.split("\r\n")[-5:-1]] == [
        "incomplete",
        "precalculated",
        "error:",
        "hint:",
    ]
    write(site, "good.ndjson", bad=0)
    _, output = on_terminal([*words, "none.json", "good.ndjson"], env=site.environment(), cwd=site.folder)
    assert "ended with an error, see above: none.json (exit code 3)\r\n" in output[-60:]
    assert output.index("incomplete parcels") < output.index("error: ") < output.index("loaded parcels")


def test_a_known_source_refreshes_what_is_pending(weighed: Site) -> None:
    """A source that is loaded already refreshes the aggregates that an earlier load left."""
    write(weighed, "feed.ndjson", bad=0)
    weighed.load("parcels", "feed.ndjson", "--no-precalculate")
    again = weighed.run("load", "parcels", "feed.ndjson", "--json").lines[-1]
    assert [each["aggregate"] for each in again["precalculated"]] == ["data_quality"]


def test_a_mail_names_the_database_of_the_environment(weighed: Site) -> None:
    """A command in a mail finds the database that variables of the job name; for a password it needs the variable."""
    write(weighed, "feed.ndjson", bad=1)
    where = {name: str(value) for name, value in conninfo_to_dict(weighed.conninfo).items()}
    variables = {"PGHOST": where["host"], "PGPORT": where["port"], "PGDATABASE": where["dbname"]}
    variables |= {"PGUSER": where["user"], "PGPASSWORD": "s3cret"}
    by_variables = weighed.run("load", "parcels", "feed.ndjson", env={"ETL_DATABASE_URL": None, **variables}).stdout
    assert f"PGHOST={where['host']} PGPORT={where['port']}" in first_command(by_variables)
    by_address = weighed.run("load", "parcels", "feed.ndjson").stdout
    assert first_command(by_address).endswith(f"--database {shlex.quote(weighed.conninfo)}")
    secret = make_conninfo(weighed.conninfo, password="s3cret")  # noqa: S106 - of nobody
    by_secret = weighed.run("load", "parcels", "feed.ndjson", env={"ETL_DATABASE_URL": secret}).stdout
    assert "--database" not in first_command(by_secret)
    assert "the commands need ETL_DATABASE_URL" in by_secret
    assert "s3cret" not in by_variables + by_secret
