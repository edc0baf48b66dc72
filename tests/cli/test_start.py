"""What a command imports when it starts."""

import subprocess
import sys
from importlib import metadata

_IMPORTED = """
import sys
from etl import cli
code = cli.run(["load", "--help"])
found = [name in sys.modules for name in ("psycopg", "email", "importlib.metadata")]
import psycopg, psycopg_binary
from importlib import metadata
versions = [psycopg.__version__, psycopg_binary.__version__, metadata.version("click")]
print(code, found, versions, metadata.__name__, file=sys.stderr)
"""

_LOADED = """
import sys
from etl import cli
code = cli.run(["load", "--help"])
import etl.embedded, etl.provisioning
rare = ("psutil", "colorama", "zlib_ng", "backports.zstd", "etl.precalculation.installation")
print(code, [name for name in rare if name in sys.modules], file=sys.stderr)
"""

_ASKED = """
from etl.version import quick_versions
with quick_versions():
    from importlib import metadata
    print([metadata.version(name) for name in ("click", "psycopg-binary")])
    print(metadata.distribution("click").version)
    try:
        metadata.version("no-such-package")
    except metadata.PackageNotFoundError:
        print("not found")
from importlib import metadata
print(metadata.version("click"))
"""


def _run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)


def test_a_command_does_not_import_what_reads_mail() -> None:
    """The packages have their versions all the same, and the module for them is there for others."""
    versions = [metadata.version(name) for name in ("psycopg", "psycopg-binary", "click")]
    assert _run(_IMPORTED).stderr.strip() == f"0 [True, False, False] {versions} importlib.metadata"


def test_a_load_does_not_import_what_few_loads_need() -> None:
    """What starts a server, reads compressed files or makes triggers is imported when it is needed."""
    assert _run(_LOADED).stderr.strip() == "0 []"


def test_a_package_that_asks_for_more_gets_it() -> None:
    """Descriptions are read when they are asked for, and a missing package is an error as ever."""
    version = metadata.version("click")
    expected = [str([version, metadata.version("psycopg-binary")]), version, "not found", version]
    assert _run(_ASKED).stdout.splitlines() == expected
