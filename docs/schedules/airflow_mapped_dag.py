"""Many sources as a mapped task of Airflow 3: one `etl load` for each file, several at a time, on any workers."""

import datetime as dt
import subprocess
from pathlib import Path

from airflow.sdk import dag, task

try:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException
except ImportError:  # Airflow 3.0 and 3.1
    from airflow.exceptions import AirflowException, AirflowFailException

# A retry would end with the same code: rejected records, wrong usage, a broken file, too many rejected, a fault of etl.
FINAL = {1, 2, 3, 5, 70}

FOLDER = Path("/srv/exports/shipments")


@dag(
    schedule="15 3 * * *",
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 5, "retry_delay": dt.timedelta(minutes=10), "retry_exponential_backoff": True},
)
def mapped_load() -> None:
    """Load each export of the night by a task of its own, and refresh the aggregates after all of them."""

    @task
    def sources() -> list[str]:
        """Return the files of the folder, which each worker sees under the same path."""
        return sorted(str(path) for path in FOLDER.iterdir() if path.is_file())

    def etl(*words: str) -> None:
        command = ["etl", "--log-format", "json", *words]
        code = subprocess.run(command, check=False).returncode
        if code in FINAL:
            raise AirflowFailException(f"etl ended with {code}: docs/how-to/nightly.md explains what to do")
        if code:
            raise AirflowException(f"etl ended with {code}: the same command continues where it stopped")

    # As many loads at a time as the database has cores to spare.
    @task(max_active_tis_per_dagrun=4)
    def load(dataset: str, source: str) -> None:
        """Load one file. One that is loaded already ends at once."""
        etl("load", dataset, source, "--no-precalculate", "--json")

    # Also after a load that failed: the others have changed the facts.
    @task(trigger_rule="all_done")
    def refresh() -> None:
        """Bring the aggregates up to date."""
        etl("precalculate")

    load.partial(dataset="shipments").expand(source=sources()) >> refresh()


mapped_load()
