"""Two Ray nodes on loopback, of one core each: python -m tests.clusters.ray_cluster

Prints the address, then one line of process ids per node, the head's first. Ends both nodes when standard input ends.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

MEMORY_BYTES = 80_000_000
"""Memory for objects; Ray's minimum is 75 MB."""


def main() -> None:
    from ray.cluster_utils import Cluster

    common: dict[str, Any] = {"num_cpus": 1, "object_store_memory": MEMORY_BYTES}
    head = common | {"include_dashboard": False, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.head_node, cluster.add_node(**common)]
    lines = [[process.process.pid for group in node.all_processes.values() for process in group] for node in nodes]
    sys.stdout.write("\n".join([cluster.address, *map(json.dumps, lines), ""]))
    sys.stdout.flush()
    sys.stdin.read()
    cluster.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
