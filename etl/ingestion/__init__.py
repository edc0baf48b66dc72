"""From a source to the facts: streaming, COPY, the ledger and the failed store."""
