"""Optimizer settings in words, for reports."""

from __future__ import annotations

import math

from einsearch_cli.training.optimizers import UpdateSettings

_NAMES = {"adamw": "AdamW", "muon": "Muon"}


def update_words(settings: UpdateSettings) -> str:
    """Optimizer, decay rates, weight decay and clipping.

    >>> update_words(UpdateSettings())
    'AdamW, β 0.9 and 0.95, weight decay 0, gradients clipped at norm 1'
    """
    clipped = f"gradients clipped at norm {settings.clip_norm:g}"
    parts = (
        _NAMES.get(settings.name, settings.name),
        f"β {settings.beta1:g} and {settings.beta2:g}",
        f"weight decay {settings.weight_decay:g}",
        clipped if math.isfinite(settings.clip_norm) else "gradients not clipped",
    )
    return ", ".join(parts)
