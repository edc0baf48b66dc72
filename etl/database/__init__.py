"""PostgreSQL: which database is meant, sessions, tables, migrations."""
