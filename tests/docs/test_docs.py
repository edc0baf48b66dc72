import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest

from etl import datasets, queries
from etl.cli import cli
from etl.datasets import reading
from etl.errors import EtlError, ExitCode
from etl.ingestion.summary import Status
from etl.settings import SERVICES, file_keys, read_file_settings, service_keys, shipped
from scripts import update_docs
from scripts.update_docs import PAGES, ROOT
from tests.support.browsing import launched
from tests.support.faults import Connection

REFERENCE = ROOT / "docs" / "reference"
AGAIN = "run: .venv/bin/python -m scripts.update_docs"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_id(path: Path) -> str:
    """Return the path of a page from the top of the project."""
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    """Return the text of a page."""
    return path.read_text(encoding="utf-8")


def fenced(path: Path, kind: str) -> list[str]:
    """Return the fenced blocks of a kind in a page."""
    return [text for name, text in FENCE.findall(text_of(path)) if name == kind]


def table_words(path: Path) -> set[str]:
    """Return the words in backticks of the first column of all tables in a page."""
    first = re.findall(r"^\| (`[^|]+`) \|", text_of(path), re.MULTILINE)
    return {word for cell in first for word in re.findall(r"`([^`]+)`", cell)}


def test_the_generated_parts_are_what_the_code_says_now(connection: Connection) -> None:
    """The documentation has every command, option, module, conversion, table and column as it is now."""
    made = update_docs.blocks(connection)
    named = [name for path in PAGES for name in re.findall(r"<!-- generated: (\S+) -->", text_of(path))]
    assert sorted(named) == sorted(made)
    for path in PAGES:
        assert update_docs.with_blocks(text_of(path), made) == text_of(path), AGAIN


SLOW = {"docs/how-to/own-dataset.md", "docs/quick-start.md", "docs/reference/summary.md", "docs/tutorial.md"}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=page_id(path), marks=[pytest.mark.slow] if page_id(path) in SLOW else [])
        for path in PAGES
        if fenced(path, "console") or fenced(path, "pycon")
    ],
)
def test_the_examples_print_what_the_page_says(path: Path, tmp_path: Path, database_url: str) -> None:
    """The commands of a page, run in an empty folder, print the output that the page shows."""
    text = text_of(path)
    updated = update_docs.with_transcripts(text, tmp_path, database_url)
    assert updated == text, AGAIN
    # A command that fails is recorded in the same way as one that succeeds.
    assert not [line for block in fenced(path, "console") for line in block.splitlines() if line.startswith("error: ")]


def test_facts_and_aggregates_explain_themselves(connection: Connection) -> None:
    """Each table that an analyst reads, and each of its columns, has a comment in the database."""
    for_analysts = update_docs.blocks(connection)["tables"].partition("## Schema `etl`")[0]
    assert for_analysts.count("\n### ") > 10
    assert re.findall(r"^### (.+)\n\n\|", for_analysts, re.MULTILINE) == []
    assert re.findall(r"^\| `(.+)` .*\|  \|$", for_analysts, re.MULTILINE) == []


@pytest.mark.parametrize("path", [path for path in PAGES if fenced(path, "sql")], ids=page_id)
def test_the_queries_of_a_page_run(path: Path, connection: Connection) -> None:
    """The database accepts each query that a page shows."""
    for query in fenced(path, "sql"):
        connection.execute(query.encode())


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_lead_somewhere(path: Path) -> None:
    """Each relative link names an existing file and an existing heading."""
    prose = FENCE.sub("", text_of(path))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), target
        assert found.is_relative_to(ROOT), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(found)), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


def test_every_page_is_found_from_the_readme() -> None:
    """Every page can be reached by links from the README."""
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path not in seen and path.suffix == ".md":
            seen.add(path)
            waiting += [
                (path.parent / name).resolve() for name in re.findall(r"\]\(([^)\s#:]+)(?:#\S*)?\)", text_of(path))
            ]
    assert set(PAGES) <= seen


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a dead link, an unlisted page or a missing heading is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    """Each page of the documentation, and those at the top of the project, can be reached from the navigation."""
    home = (site / "index.html").read_text(encoding="utf-8")
    names = {"changelog.html", "contributing.html"} | {
        path.relative_to(ROOT / "docs").with_suffix(".html").as_posix().replace("README.html", "index.html")
        for path in PAGES
        if path.is_relative_to(ROOT / "docs")
    }
    assert {name for name in names if f'href="{name}"' not in home} == set()


def test_the_site_needs_no_network(site: Path) -> None:
    """No page and no style sheet loads a script, a font or a picture from another host."""
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=.?(?:https?:)?//[^ >]+", text) == [], path
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", text) == [], path


@pytest.mark.slow
@pytest.mark.parametrize(("word", "is_found"), [("freshness", True), ("qqqxyz", False)])
def test_the_search_works_from_disk(site: Path, word: str, is_found: bool) -> None:
    """A page that a browser opens as a file finds what the pages hold."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium")
    address = f"{(site / 'how-to' / 'serve.html').as_uri()}?q={word}"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    done = subprocess.run([browser, *options, address], capture_output=True, text=True, check=True, timeout=120)
    [answer] = re.findall(r'"md-search-result__meta">([^<]*)<', done.stdout)
    assert re.fullmatch(r"[1-9]\d* matching documents?" if is_found else "No matching documents", answer.strip())


_BOXES_OUTSIDE = """
    (width) => [...document.querySelectorAll(".md-content pre, .md-content table")]
        .map((box) => [box, box.closest(".md-typeset__scrollwrap, .highlight") ?? box])
        .filter(([box, frame]) => frame.getBoundingClientRect().right > width
            || (box.scrollWidth > frame.clientWidth + 1 && !["auto", "scroll"].some((way) =>
                [frame, box, ...box.querySelectorAll("code")].some((each) => getComputedStyle(each).overflowX == way))))
        .map(([box]) => box.textContent.trim().slice(0, 60))
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_no_page_of_the_site_is_wider_than_the_window(site: Path, width: int) -> None:
    """Code and tables stay in their boxes, and can be scrolled there, on a phone and on a desk."""
    wrong = {}
    with launched() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        paths = [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]
        for path in paths:
            page.goto(path.as_uri())
            page.locator(".md-content h1").first.wait_for()
            found = page.evaluate(_BOXES_OUTSIDE, width)
            if found or page.evaluate("document.documentElement.scrollWidth") > width:
                wrong[path.relative_to(site).as_posix()] = found
    assert wrong == {}
    assert len(paths) > len(PAGES) // 2


def test_the_commands_of_the_pages_are_right() -> None:
    """Each `etl` command of a block that no test runs exists, with its options."""
    found = [
        (page_id(path), line)
        for path in PAGES
        for kind in ("sh", "text")
        for block in fenced(path, kind)
        for line in re.findall(r"^etl [^\n|>#;]+", block, re.MULTILINE)
    ]
    assert len(found) > 20
    for page, line in found:
        words = shlex.split(line)[1:]
        command: click.Command = cli
        context = click.Context(cli, info_name="etl")
        while isinstance(command, click.Group):
            assert words, f"{page}: {line}"
            # Each option before the command has one value.
            while words[0].startswith("--"):
                words = words[2:]
            name, below, words = command.resolve_command(context, words)
            assert below is not None, f"{page}: {line}"
            command, context = below, click.Context(below, parent=context, info_name=name)
        try:
            command.make_parser(context).parse_args(words)
        except click.UsageError as error:
            pytest.fail(f"{page}: {line}: {error.format_message()}")


def error_classes() -> Iterator[type[EtlError]]:
    """Yield the error classes that end a command."""
    waiting: list[type[EtlError]] = [EtlError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("etl."):
            yield kind


def test_every_error_has_an_exit_code_of_the_contract() -> None:
    """Each error class has a member of the list of exit codes."""
    assert {kind.exit_code for kind in error_classes()} <= set(ExitCode)


@pytest.mark.parametrize("name", ["README.md", "docs/reference/exit-codes.md"])
def test_every_exit_code_is_explained(name: str) -> None:
    """The tables of exit codes have the exit codes of the commands, and no others."""
    rows = re.findall(r"^\| (\d+(?:, \d+)*) \|", text_of(ROOT / name), re.MULTILINE)
    assert sorted(int(code) for row in rows for code in row.split(", ")) == sorted(ExitCode)


def test_every_status_is_explained() -> None:
    """The table of exit codes has each status of a load."""
    page = text_of(REFERENCE / "exit-codes.md")
    assert [word for word in get_args(Status) if f"`{word}`" not in page] == []


def test_the_order_of_exit_codes_is_explained() -> None:
    """The page names the order in which the exit code is chosen when several sources end differently."""
    order = ", ".join(map(str, ExitCode))
    assert f"of {order}." in text_of(REFERENCE / "exit-codes.md")


def test_every_key_of_etl_toml_is_explained() -> None:
    """The table of options has exactly the keys of etl.toml."""
    rows = [line.split(" | ") for line in text_of(REFERENCE / "settings.md").splitlines() if line.startswith("| `--")]
    keys = {*file_keys(), *(f"{command}.{key}" for command in SERVICES for key in service_keys(command))}
    assert {row[2].strip("`") for row in rows} - {""} == keys


def test_the_example_of_etl_toml_is_right(tmp_path: Path) -> None:
    """The program accepts the example of the page, and finds its keys."""
    (example,) = fenced(REFERENCE / "settings.md", "toml")
    (tmp_path / "etl.toml").write_text(example, encoding="utf-8")
    table = tomllib.loads(example)["load"]
    assert table
    assert read_file_settings(tmp_path).as_defaults().keys() == table.keys()


def test_every_part_of_a_definition_is_explained() -> None:
    """The grammar of definitions has each key, option and type of the program."""
    words = table_words(REFERENCE / "dataset-definitions.md")
    parts = (reading.Document, reading.TableDocument, datasets.Column)
    known = {name for part in parts for name in part.__struct_fields__}
    assert known - words - reading._INTERNAL == set()
    page = text_of(REFERENCE / "dataset-definitions.md")
    assert [name for name in get_args(datasets.Type) if f"`{name}`" not in page] == []


def test_the_examples_of_definitions_are_right(tmp_path: Path) -> None:
    """The program accepts each definition that a page shows."""
    examples = [example for path in PAGES for example in fenced(path, "toml") if path != REFERENCE / "settings.md"]
    assert len(examples) > 2
    for example in examples:
        path = tmp_path / f"{tomllib.loads(example)['name']}.toml"
        path.write_text(example, encoding="utf-8")
        datasets.read(path)


def test_every_key_of_json_output_is_explained() -> None:
    """The page names each key of its example of JSON output."""
    path = REFERENCE / "summary.md"
    words = table_words(path) | set(re.findall(r"`(\w+)`", text_of(path)))
    keys = {key for block in fenced(path, "console") for key in re.findall(r'"(\w+)": ', block)}
    assert {"records", "texts", "failures", "precalculated"} <= keys
    of_the_example = {"vehicle_id", "capacity_kg"}
    assert keys - words == of_the_example


def test_every_key_of_a_failure_is_explained() -> None:
    """The page about the failed store explains each key of the file that describes the records."""
    shown = next(block for block in fenced(REFERENCE / "summary.md", "console") if '"texts"' in block)
    document = json.loads(shown[shown.rindex("\n{\n") :])
    words = table_words(REFERENCE / "failed-store.md")
    assert {*document, *document["records"][0]} - words - {"texts", "file"} == set()


def named_statements(module: Path) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return the statements that a module uses, and those that it may use, by their file of queries.

    A name in a variable may be any text of the module; a name of which only the beginning is known ends with *.
    """
    tree = ast.parse(text_of(module))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    files: dict[str, str] = {}
    asked: dict[str, set[str]] = {}
    possible: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            files[node.targets[0].id] = loaded(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            name = loaded(node.value) or files.get(getattr(node.value, "id", ""), "")
            if name:
                asked.setdefault(name, set()).update(constants(node.slice))
                possible.setdefault(name, set()).update(texts if isinstance(node.slice, ast.Name) else asked[name])
    return asked, possible


def loaded(node: ast.expr) -> str:
    """Return NAME of an expression `queries.load("NAME")`, or an empty text."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "queries.load":
        return str(ast.literal_eval(node.args[0]))
    return ""


def constants(node: ast.expr) -> Iterator[str]:
    """Yield the names that an expression can be."""
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)
    elif isinstance(node, ast.JoinedStr):
        yield f"{ast.literal_eval(node.values[0])}*"


def test_every_statement_is_used_and_every_used_one_exists() -> None:
    """A module uses each named statement of sql/queries/, and no module uses a missing one."""
    unused = {path.stem: set(queries.load(path.stem)) for path in (shipped("sql") / "queries").glob("*.sql")}
    known = {name: frozenset(statements) for name, statements in unused.items()}
    for module in (ROOT / "etl").rglob("*.py"):
        asked, possible = named_statements(module)
        for name, statements in asked.items():
            exact = {each for each in statements if not each.endswith("*")}
            assert exact - known[name] == set(), f"{module} asks for them in {name}.sql"
        for name, statements in possible.items():
            starts = tuple(each.removesuffix("*") for each in statements if each.endswith("*"))
            unused[name] -= statements | {each for each in known[name] if each.startswith(starts)}
    assert {name: statements for name, statements in unused.items() if statements} == {}
