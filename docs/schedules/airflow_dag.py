"""A nightly load as an Airflow 3 DAG: the exit code decides whether Airflow retries the task or notifies a person."""

import datetime as dt
import subprocess

from airflow.sdk import dag, task

try:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException
except ImportError:  # Airflow 3.0 and 3.1
    from airflow.exceptions import AirflowException, AirflowFailException

# A retry would end with the same code: rejected records, wrong usage, a broken file, too many rejected, a fault of etl.
FINAL = {1, 2, 3, 5, 70}


@dag(
    schedule="15 3 * * *",
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 5, "retry_delay": dt.timedelta(minutes=10), "retry_exponential_backoff": True},
)
def nightly_load() -> None:
    """Load the exports of the night into the database."""

    @task
    def load(dataset: str, source: str) -> None:
        """Run `etl load` with the ETL_* and PG* variables of the worker; its log lines are in the log of the task."""
        command = ["etl", "--log-format", "json", "load", dataset, source]
        code = subprocess.run(command, check=False).returncode
        if code in FINAL:
            # Also for 1: all other records are loaded, but nobody would notice the rejected records of a green task.
            raise AirflowFailException(f"etl load ended with {code}: docs/how-to/nightly.md explains what to do")
        if code:
            raise AirflowException(f"etl load ended with {code}: the same command continues where it stopped")

    load("shipments", "/srv/exports/shipments")


nightly_load()
