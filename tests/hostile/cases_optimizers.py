"""Names and settings of optimizers."""

from __future__ import annotations

from tests.hostile.case import Case, refused

STUDY = "structures: [monarch]\noptimizer: "

CASES: tuple[Case, ...] = (
    refused("rank a.yaml", "a.yaml:2", "'moun'", "adamw, muon", files={"a.yaml": STUDY + "{name: moun}"}),
    refused("rank a.yaml", "'Muon'", "name: muon", files={"a.yaml": STUDY + "{name: Muon}"}),
    refused("rank a.yaml", "optimizer.name", "text is needed", files={"a.yaml": STUDY + "{name: [muon]}"}),
    refused("rank a.yaml", "optimizer.name", "text is needed", files={"a.yaml": STUDY + "{name: null}"}),
    refused("rank a.yaml", "''", "adamw, muon", files={"a.yaml": STUDY + "{name: ''}"}),
    refused("rank a.yaml", "adamw, muon", files={"a.yaml": STUDY + "{name: ../adamw}"}),
    refused("rank a.yaml", "adamw, muon", files={"a.yaml": STUDY + "{name: __init__}"}),
    refused("rank a.yaml", "adamw, muon", files={"a.yaml": STUDY + "{name: os}"}),
    refused("rank a.yaml", "optimizer is 'muon'", files={"a.yaml": STUDY + "muon"}),
    refused("rank a.yaml", "optimizer.beta2 is 1", files={"a.yaml": STUDY + "{name: muon, beta2: 1}"}),
    refused("rank a.yaml", "'optimizer.momentum'", files={"a.yaml": STUDY + "{name: muon, momentum: 0.9}"}),
    refused("train a.yaml", "a.yaml:1", "adamw, muon", files={"a.yaml": "{steps: 2, optimizer: {name: sgd}}"}),
    refused("train a.yaml --set optimizer.name=sgd", "'sgd'", "adamw, muon", files={"a.yaml": "steps: 2"}),
    refused("train a.yaml --set optimizer=muon", "optimizer is 'muon'", files={"a.yaml": "steps: 2"}),
)
