"""Ray clusters on loopback."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.studies import results

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Results of the small study on the local engine."""
    return results(tmp_path_factory.mktemp("studies") / "local", "--workers", "2")


@dataclass(frozen=True)
class RayCluster:
    """Two nodes of one core each."""

    address: str
    head: list[int]
    """Processes of the first node, including the cluster's own."""
    other: list[int]
    """Processes of the second node."""


@contextmanager
def ray_cluster(patch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """Run a cluster within the block; commands find its token in their environment."""
    for name, value in {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # with it, Ray stays on 127.0.0.1
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }.items():
        patch.setenv(name, value)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.clusters.ray_cluster"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address, head, other = (process.stdout.readline() for _ in range(3))
        yield RayCluster(address.strip(), json.loads(head), json.loads(other))
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()
