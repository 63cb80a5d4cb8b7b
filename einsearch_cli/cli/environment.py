"""Versions and machine, for reports."""

from __future__ import annotations

import os
import platform


def environment() -> tuple[tuple[str, str], ...]:
    """Names and values."""
    import torch

    from einsearch_cli import __version__

    return (
        ("einsearch", __version__),
        ("python", platform.python_version()),
        ("torch", str(torch.__version__)),
        ("platform", platform.platform()),
        ("cores", str(os.cpu_count())),
    )
