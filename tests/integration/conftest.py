"""What several integration tests share."""

from collections.abc import Iterator

import pytest

from tests.support.casting import cluster_of_four
from tests.support.ray import RayHead


@pytest.fixture(scope="module")
def cluster(cluster_python: str) -> Iterator[RayHead]:
    """Four raylets of a Python without castrayd, shared by a module."""
    with cluster_of_four(cluster_python) as head:
        yield head
