"""Rows -> tables: COPY, merge, replace, and the rows that the server refuses."""
