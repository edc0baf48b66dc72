"""What happened -> the events of OpenLineage, by the facets of its client. Imported by the thread that sends."""

import importlib.metadata
import os
from typing import Any
from uuid import UUID

from openlineage.client import event_v2
from openlineage.client.constants import DEFAULT_NAMESPACE_NAME
from openlineage.client.facet_v2 import (
    column_lineage_dataset,
    documentation_dataset,
    documentation_job,
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    output_statistics_output_dataset,
    parent_run,
    processing_engine_run,
    schema_dataset,
    tags_run,
)
from openlineage.client.uuid import generate_static_uuid

from etl.lineage.facts import Event, Field, Place, Work
from etl.version import __version__


def _producer() -> str:
    """Return the address of the repository that this installation was built from, with the version."""
    links = importlib.metadata.metadata("logistics-etl").get_all("Project-URL") or []
    addresses = [link.partition(", ")[2] for link in links if link.startswith("Repository, ")]
    return f"{(addresses or ['https://example.com/logistics-etl'])[0]}/tree/v{__version__}"


PRODUCER = _producer()


def made(event: Event) -> event_v2.RunEvent:
    """Return the event for the client."""
    work = event.work
    return event_v2.RunEvent(
        eventType=event_v2.RunState[event.state],
        eventTime=event.at.isoformat(),
        run=event_v2.Run(runId=str(generate_static_uuid(work.began_at, work.key.encode())), facets=_run(event)),
        job=event_v2.Job(namespace=_namespace(), name=work.job, facets=_job(work)),
        inputs=[_input(place, event) for place in work.inputs],
        outputs=[_output(place, work, event) for place in work.outputs],
        producer=PRODUCER,
    )


def _namespace() -> str:
    return os.environ.get("OPENLINEAGE_NAMESPACE") or DEFAULT_NAMESPACE_NAME


def _run(event: Event) -> dict[str, Any]:
    facets: dict[str, Any] = {
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
            name="logistics-etl", version=__version__, producer=PRODUCER
        )
    }
    if event.work.tags:
        facets["tags"] = tags_run.TagsRunFacet(
            tags=[
                tags_run.TagsRunFacetFields(key=key, value=value, source="etl")
                for key, value in event.work.tags.items()
            ],
            producer=PRODUCER,
        )
    if event.error is not None:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
            message=event.error, programmingLanguage="PYTHON", producer=PRODUCER
        )
    if (parent := _parent()) is not None:
        facets["parent"] = parent
    return facets


def _parent() -> parent_run.ParentRunFacet | None:
    """Return the run of a scheduler that started this one, by the variable of other integrations of OpenLineage."""
    namespace, _, rest = os.environ.get("OPENLINEAGE_PARENT_ID", "").partition("/")
    name, _, run = rest.rpartition("/")
    try:
        UUID(run)
    except ValueError:
        return None
    return parent_run.ParentRunFacet(
        run=parent_run.Run(runId=run), job=parent_run.Job(namespace=namespace, name=name), producer=PRODUCER
    )


def _job(work: Work) -> dict[str, Any]:
    return {
        "jobType": job_type_job.JobTypeJobFacet(
            processingType="BATCH", integration="ETL", jobType=work.kind, producer=PRODUCER
        ),
        "documentation": documentation_job.DocumentationJobFacet(description=work.description, producer=PRODUCER),
    }


def _facets(place: Place) -> dict[str, Any]:
    facets: dict[str, Any] = {}
    if place.fields:
        facets["schema"] = schema_dataset.SchemaDatasetFacet(
            fields=[
                schema_dataset.SchemaDatasetFacetFields(name=field.name, type=field.kind, description=field.comment)
                for field in place.fields
            ],
            producer=PRODUCER,
        )
    if place.comment:
        facets["documentation"] = documentation_dataset.DocumentationDatasetFacet(
            description=place.comment, producer=PRODUCER
        )
    return facets


def _input(place: Place, event: Event) -> event_v2.InputDataset:
    counts = {}
    if event.read is not None:
        counts["inputStatistics"] = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
            rowCount=event.read, size=event.size, fileCount=1, producer=PRODUCER
        )
    return event_v2.InputDataset(
        namespace=place.namespace, name=place.name, facets=_facets(place), inputFacets=dict(counts)
    )


def _output(place: Place, work: Work, event: Event) -> event_v2.OutputDataset:
    facets = _facets(place)
    taken = {field.name: field for field in place.fields if field.path}
    if taken:
        facets["columnLineage"] = column_lineage_dataset.ColumnLineageDatasetFacet(
            fields={name: _taken(field, work.inputs[0]) for name, field in taken.items()}, producer=PRODUCER
        )
    counts = {}
    if place.name in event.rows:
        counts["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=event.rows[place.name], producer=PRODUCER
        )
    return event_v2.OutputDataset(namespace=place.namespace, name=place.name, facets=facets, outputFacets=dict(counts))


def _taken(field: Field, source: Place) -> column_lineage_dataset.Fields:
    """Return the member of a record that a column is made of."""
    kind = column_lineage_dataset.Transformation(
        type="DIRECT", subtype="TRANSFORMATION" if field.is_changed else "IDENTITY"
    )
    return column_lineage_dataset.Fields(
        inputFields=[
            column_lineage_dataset.InputField(
                namespace=source.namespace, name=source.name, field=field.path or "", transformations=[kind]
            )
        ]
    )
