"""Alembic's entry point: runs the migrations over the connection that `etl.database.connecting` hands it."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="schema_version",
    version_table_schema="etl",
)
with context.begin_transaction():
    context.run_migrations()
