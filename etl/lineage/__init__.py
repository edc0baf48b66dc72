"""The events of OpenLineage: which run loaded which source into which tables, and which refresh read them.

The official client sends them, as its own configuration says. A thread of this process does so, so that no load and no
refresh waits for a collector; what cannot be sent is counted, and is no fault. Nothing here is imported unless the
client is configured (`etl.settings.lineage_is_on`).
"""

from etl.lineage.sending import refreshing, run_began, run_ended

__all__ = ["refreshing", "run_began", "run_ended"]
