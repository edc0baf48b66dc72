"""The aggregates over HTTP: `etl serve`. It reads what is precomputed, and computes nothing.

    request -> front (limits, identity, kept answers) -> routes (rows, freshness, runs, ...) -> a read-only snapshot
                                  ^
               watching: versions, by notification

Its packages come with the extra `serve`. Nothing of the loader imports this room.
"""
