"""How often one may ask: a bucket of tokens for each name, which fills with time. Knows no request."""

from collections import OrderedDict

# A burst may have as many requests as this many seconds allow.
BURST_SECONDS = 2.0
_MOST_NAMES = 10_000


class Rate:
    """Limits the requests of each name to some per second, on average."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second * BURST_SECONDS)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_of(self, name: str, now: float) -> float:
        """Take one request of a name; return 0, or the seconds after which it may ask again."""
        if self._per_second <= 0:
            return 0.0
        tokens, at = self._buckets.pop(name, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._per_second)
        is_allowed = tokens >= 1.0
        self._buckets[name] = (tokens - 1.0 if is_allowed else tokens, now)
        if len(self._buckets) > _MOST_NAMES:
            self._buckets.popitem(last=False)
        return 0.0 if is_allowed else (1.0 - tokens) / self._per_second
