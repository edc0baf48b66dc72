"""A nightly load as an Airflow 3 DAG: its exit code decides whether Airflow retries the task or notifies a person."""

import datetime as dt
import json
import subprocess

from airflow.sdk import dag, task

try:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
except ImportError:  # Airflow 3.0 and 3.1
    from airflow.exceptions import AirflowException, AirflowFailException, AirflowSkipException

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
        command = ["etl", "--log-format", "json", "load", dataset, source, "--json"]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        print(done.stdout)
        code = done.returncode
        if code in FINAL:
            # Also for 1: all other records are loaded, but nobody would notice the rejected records of a green task.
            raise AirflowFailException(f"etl load ended with {code}: docs/how-to/nightly.md explains what to do")
        if code:
            raise AirflowException(f"etl load ended with {code}: the same command continues where it stopped")
        ends = [end for end in map(json.loads, done.stdout.splitlines()) if end["kind"] == "source"]
        if ends and all(end["status"] == "already_loaded" for end in ends):
            # Later tasks have nothing to do. Without this line, the task is a success.
            raise AirflowSkipException("every source is loaded already")

    load("shipments", "/srv/exports/shipments")


nightly_load()
