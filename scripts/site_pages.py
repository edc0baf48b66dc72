"""What the site needs beyond what MkDocs does with the pages of `docs/`: hooks that `mkdocs.yml` names.

The pages are written for those who read them in a checkout. Here a folder in the navigation becomes its pages, the
pages at the top of the project become pages of the site, and a pipe in a table is spelled as this Markdown has it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent

# The page of the site, and the file at the top of the project that it shows.
_OF_THE_PROJECT = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
_ROW = re.compile(r"^\|.*$", re.MULTILINE)
_CODE = re.compile(r"`[^`\n]+`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the project, and let each folder of the navigation be its pages."""
    for name, source in _OF_THE_PROJECT.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    pages = {file.src_uri: _heading(file) for file in files.documentation_pages()}
    named = set(_named(config.nav))
    config.nav = _opened(config.nav, {uri: title for uri, title in pages.items() if uri not in named})
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead to the pages of the project, and let a pipe within code in a table be a pipe.

    GitHub wants it escaped there, this Markdown shows the escape.
    """
    for name, source in _OF_THE_PROJECT.items():
        markdown = markdown.replace(f"../{source}", name)
    return _ROW.sub(lambda row: _CODE.sub(lambda code: code[0].replace(r"\|", "|"), row[0]), markdown)


def _heading(file: File) -> str:
    found = re.search(r"^# (.+)$", file.content_string, re.MULTILINE)
    return found[1] if found else file.src_uri


def _named(nav: Any) -> Iterator[str]:
    """Yield the pages that the navigation names one by one."""
    for entry in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else [nav]:
        if isinstance(entry, str):
            yield entry
        else:
            yield from _named(entry)


def _opened(entry: Any, pages: dict[str, str]) -> Any:
    if isinstance(entry, dict):
        # A section whose folder has no pages is left out.
        return {title: inner for title, below in entry.items() if (inner := _opened(below, pages))}
    if not isinstance(entry, list):
        return entry
    opened: list[Any] = []
    for each in entry:
        if isinstance(each, str) and each.endswith("/"):
            found = [uri for uri in pages if uri.startswith(each)]
            opened += sorted(found, key=lambda uri: (uri if each == "decisions/" else pages[uri]).lower())
        else:
            opened.append(_opened(each, pages))
    return [each for each in opened if each]
