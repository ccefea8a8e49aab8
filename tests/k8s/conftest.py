"""What both clusters of the example are given, built once."""

from __future__ import annotations

import pytest
from domicile_testing.kubectl import kubectl
from domicile_testing.kubernetes import CLUSTERS, Object, built, rendered, written


@pytest.fixture(scope="session")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    if kubectl() is None:
        pytest.skip("no kubectl beside this Python or on the PATH, and `make test` could fetch none")
    folder = tmp_path_factory.mktemp("k8s")
    written(rendered(), folder)
    return {name: built(folder / "clusters" / name) for name in CLUSTERS}


@pytest.fixture(scope="session")
def objects(clusters: dict[str, list[Object]]) -> list[Object]:
    return [each for found in clusters.values() for each in found]
