"""Mixtures: commands of all kinds at once, killed and disturbed at random, against full knowledge of their sources.

`ETL_MIXTURE_SEED=17 pytest -m slow tests/guarantees/test_mixtures.py` runs one mixture again. ETL_MIXTURES is how many
the slow test runs, from the seed ETL_MIXTURE_FIRST on. The same seed draws the same plan, which a failure prints; the
moments at which its steps meet differ. ETL_MIXTURE_PARTS names what is drawn (tests/support/mixtures/plan.py).
"""

import os
from pathlib import Path

import pytest

from etl.embedded import Server
from tests.support.mixtures.mixture import Mixtures
from tests.support.mixtures.plan import draw

SEEDS = (5,)
MIXTURES = int(os.environ.get("ETL_MIXTURES", "20"))
FIRST = int(os.environ.get("ETL_MIXTURE_FIRST", "100"))
SEED = os.environ.get("ETL_MIXTURE_SEED")


@pytest.fixture(scope="module")
def mixtures(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Mixtures:
    """Give fresh databases for mixtures."""
    return Mixtures(server, tmp_path_factory.mktemp("mixtures"))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mixture(mixtures: Mixtures, tmp_path: Path, seed: int) -> None:
    """After commands of all kinds at once, which are killed and disturbed, the tables are as the sources say."""
    mixtures.run(draw(seed, commands=3, records=300), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [int(SEED)] if SEED else range(FIRST, FIRST + MIXTURES))
def test_many_mixtures(mixtures: Mixtures, tmp_path: Path, seed: int) -> None:
    """The same, for longer mixtures of many seeds."""
    mixtures.run(draw(seed), tmp_path)
