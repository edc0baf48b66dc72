"""Runs, attempts, batches and failures, entered by the transaction that loads them."""
