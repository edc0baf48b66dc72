from pathlib import Path

import pytest

from scripts import words

WORDS, ALLOWED = words.read_list()

# The path of a file, its text, and the words that are found in it.
FOUND = {
    "docstring of a module": ("etl/a.py", '"""What is\ntold."""\n', ["2: told"]),
    "docstring of a function": (
        "tests/test_a.py",
        'def test_a() -> None:\n    """It goes\n    on."""\n',
        ["2: goes on"],
    ),
    "docstring of a value": ("etl/a.py", 'A = 1\n"""Heed it."""\n', ["2: Heed"]),
    "message": (
        "etl/a.py",
        'def f(a):\n    raise ValueError(f"{a} stands " "behind " f"{a}")\n',
        ["2: behind", "2: stands"],
    ),
    "message of several lines": ("etl/a.py", 'say(\n    "run again "\n    "to go on"\n)\n', ["3: go on"]),
    "string in an f-string": ("etl/a.py", "f\"{say('as of old')}\"\n", ["1: as of"]),
    "help text": (
        "etl/cli/a.py",
        '@option("--all", help="Show what is in and what waits.")\ndef f(): ...\n',
        ["1: is in"],
    ),
    "comment": ("scripts/a.py", "a = 1  # whereupon it ends\n", ["1: whereupon"]),
    "comment of several lines": ("tests/a.py", "# It belongs\n# into a file.\na = 1\n", ["1: belongs into"]),
    "page": ("docs/a.md", "# A\n\nNothing is sent, for it\nis vouched for.\n", ["3: , for it", "4: vouched"]),
    "code of a page": ("docs/a.md", "```sh\netl load  # going on\n```\n", ["2: going on"]),
    "comment of SQL": ("sql/queries/a.sql", "-- name: a\n-- Tell what goes\n-- on.\nselect 1;\n", ["2: goes on"]),
    "text of SQL": ("sql/a.sql", "comment on table t is 'what was told';\n", ["1: told"]),
    "clause": ("docs/a.md", "It ends, for the files of a run are kept.\n", ["1: , for the files of a run are"]),
    "old words": ("etl/a.py", '"""The books of the\nfast lane."""\n', ["1: books", "2: fast lane"]),
    "comment of TOML": ("config/a.toml", "# It is kept, for there\n# is no other.\n", ["1: , for there"]),
    "function": ("tests/test_a.py", "def test_it_is_told() -> None: ...\n", ["1: test_it_is_told"]),
    "class": ("etl/a.py", "class WhatIsTold: ...\n", ["1: WhatIsTold"]),
    "parameter": ("etl/a.py", "def f(*, goes_on: bool): ...\n", ["1: goes_on"]),
    "variable": (
        "etl/a.py",
        "\nfor told in range(2):\n    a.behind, crew = 1, 2\n",
        ["2: told", "3: behind", "3: crew"],
    ),
    "name of an import": ("etl/a.py", "from a import b as told_b\n", ["1: told_b"]),
    "name of a file": ("docs/what-stands-there.md", "\n", ["1: what-stands-there.md"]),
    "word of some folders": ("etl/ingestion/transform/a.py", "lanes = 2\n", ["1: lanes"]),
}

# Texts without a finding: another word, an allowed use, or a string of a test, which may be any data.
NOT_FOUND = {
    "part of a word": ("docs/a.md", "Retold, understand, standard, cavouchs, `N` is within.\n"),
    "in something": ("docs/a.md", "The facts are in the schema `logistics`, what is in `etl` is the ledger.\n"),
    "for something": ("docs/a.md", "It has a lock, for the run, and is there for them; a table, for each dataset.\n"),
    "allowed": ("etl/a.py", '"""The lock leaves no file behind."""\n'),
    "allowed message": ("etl/report/state.py", 'def f(a):\n    return f"{a} behind"\n'),
    "string of a test": ("tests/test_a.py", 'def test_a() -> None:\n    """It is read."""\n    assert read("told")\n'),
    "name that is used only": ("etl/a.py", "import told\ntold.stands(behind=1)\n"),
    "word of other folders": ("etl/report/a.py", "lanes = 2  # of an origin and a destination\n"),
}


def found_in(folder: Path, path: str, text: str) -> list[str]:
    """Return line and word of each finding that is not allowed in a file of this text."""
    file = folder / path
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    return [
        f"{finding.line}: {finding.text}"
        for finding in words.search(file, WORDS, ALLOWED, folder)
        if finding.allowed is None
    ]


@pytest.mark.parametrize(("path", "text", "expected"), FOUND.values(), ids=FOUND)
def test_a_banned_word_is_found(tmp_path: Path, path: str, text: str, expected: list[str]) -> None:
    """A word of the list is found in pages, comments, docstrings, messages and names, with its line."""
    assert found_in(tmp_path, path, text) == expected


@pytest.mark.parametrize(("path", "text"), NOT_FOUND.values(), ids=NOT_FOUND)
def test_another_word_is_not_found(tmp_path: Path, path: str, text: str) -> None:
    """Other words, allowed uses and the data of tests are not found."""
    assert found_in(tmp_path, path, text) == []


def test_a_finding_says_what_to_write(tmp_path: Path) -> None:
    """A line of the result names file, line, word and what to write instead."""
    (tmp_path / "a.md").write_text("\nIt goes  on.\n", encoding="utf-8")
    (finding,) = words.search(tmp_path / "a.md", WORDS, ALLOWED, tmp_path)
    assert str(finding) == "a.md:2: goes on -> continue"


@pytest.mark.parametrize(
    ("text", "exit_code", "result"),
    [
        ("It is loaded.\n", 0, ("", "")),
        (
            "It is in.\n",
            1,
            ("a.md:1: is in -> is loaded, are loaded\n", "1 words to replace; scripts/words.toml lists them\n"),
        ),
    ],
    ids=["clean", "found"],
)
def test_the_exit_code_says_whether_a_word_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, exit_code: int, result: tuple[str, str]
) -> None:
    """The command prints what it found and ends with 1; it prints nothing and ends with 0 when there is nothing."""
    (tmp_path / "a.md").write_text(text, encoding="utf-8")
    assert words.main([str(tmp_path)], tmp_path) == exit_code
    assert capsys.readouterr() == result


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with 2 for a path that does not exist: nothing was searched."""
    assert words.main([str(tmp_path / "no.md")], tmp_path) == 2
    assert "no.md" in capsys.readouterr().err


def test_each_word_has_an_example(tmp_path: Path) -> None:
    """Each word of the list is found in one of the examples above."""
    found = set()
    for number, (path, text, _) in enumerate(FOUND.values()):
        file = tmp_path / str(number) / path
        file.parent.mkdir(parents=True)
        file.write_text(text, encoding="utf-8")
        found |= {finding.word for finding in words.search(file, WORDS, ALLOWED, tmp_path / str(number))}
    assert [word.finds.pattern for word in WORDS if word not in found] == []


def test_the_whole_project_is_searched() -> None:
    """Without a path pages, code, SQL, definitions, tests and scripts are searched, but not the list itself."""
    names = {path.relative_to(words.ROOT).as_posix() for path in words.files()}
    assert {"README.md", "docs/index.md", "etl/errors.py", "sql/queries/ledger.sql", "config/etl.toml"} <= names
    assert {"scripts/words.py", "scripts/demo", "tests/conftest.py", "Makefile", "pyproject.toml"} <= names
    assert "scripts/words.toml" not in names
    folder = words.ROOT / "etl" / "ingestion" / "framing"
    assert set(words.files([folder])) == set(folder.glob("*.py"))


@pytest.mark.slow
def test_each_allowed_place_has_a_reason_and_is_needed() -> None:
    """Each entry of the list of allowed places gives a reason, and still lets something pass."""
    assert [entry for entry in ALLOWED if not entry.reason] == []
    used = {
        finding.allowed for path in words.files() for finding in words.search(path, WORDS, ALLOWED) if finding.allowed
    }
    assert [entry.finds.pattern for entry in ALLOWED if entry not in used] == []
