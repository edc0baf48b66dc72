"""The one policy of trying again. Knows no database and no network: its callers decide which errors are transient."""

import time
from collections.abc import Callable

from etl.optional_modules import without
from etl.settings import RetrySettings

with without("tornado"):  # It comes with the extra `dask`, and needs a twentieth of the start.
    from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter


def policy(
    settings: RetrySettings,
    is_transient: Callable[[BaseException], bool],
    before_wait: Callable[[RetryCallState], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Retrying:
    """Return the policy: transient errors only, waits that double with jitter, the last error raised unchanged.

    `before_wait` is called once for each retry.
    """
    return Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_attempt(settings.attempts),
        wait=wait_exponential_jitter(
            multiplier=settings.base_seconds, max=settings.cap_seconds, jitter=settings.base_seconds
        ),
        before_sleep=before_wait,
        sleep=sleep,
        reraise=True,
    )
