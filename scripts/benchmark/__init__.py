"""The benchmark: this tool, the others and the ceiling on the same records, against the same server and tables."""
