"""The sessions of Python that a page shows: their statements are run, and what each prints is recorded."""

import doctest
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# The statements of a page share their names, as at a prompt. A statement ends by a line with this character alone.
_END = "\036"
_PROMPT = f"""
import json, sys, traceback
names = {{"__name__": "__main__"}}
for line in sys.stdin:
    try:
        exec(compile(json.loads(line), "<page>", "single"), names)
    except BaseException as error:
        print("Traceback (most recent call last):")
        print("  ...")
        print("".join(traceback.format_exception_only(error)), end="")
    sys.stderr.flush()
    print("{_END}", flush=True)
"""


class Prompt:
    """A process that runs statements one after the other."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def follow(self, text: str) -> str:
        """Run the statements of a block, and return it with what they print now."""
        return "".join(self._shown(example) for example in doctest.DocTestParser().get_examples(text))

    def _shown(self, example: doctest.Example) -> str:
        first, *rest = example.source.rstrip("\n").split("\n")
        lines = [f">>> {first}", *(f"... {line}".rstrip() for line in rest)]
        return "\n".join([*lines, *self._printed(example.source)]) + "\n"

    def _printed(self, source: str) -> Iterator[str]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self._process.stdin.write(json.dumps(source) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line == f"{_END}\n":
                return
            yield line.rstrip()
        raise RuntimeError("the session ended")


@contextmanager
def prompt(folder: Path, environment: Mapping[str, str]) -> Iterator[Prompt]:
    """Yield a prompt in a folder; its process ends with the context."""
    with subprocess.Popen(  # noqa: S603 - the statements of our own pages
        [sys.executable, "-c", textwrap.dedent(_PROMPT)],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as process:
        yield Prompt(process)
