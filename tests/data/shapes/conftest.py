"""One small generated world for all tests of the package, rendered in this process."""

import pytest

from hbi_jax.data import shapes

TINY = shapes.WorldConfig(num_train=8, num_val=2, num_test=6, num_twin_groups=2, seed=3)


@pytest.fixture(scope="session")
def tiny_config():
    return TINY


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "world"
    shapes.generate(folder, TINY, num_workers=1, show_progress=False)
    return folder
