"""What a user asks of a study, in YAML or on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from einsearch_cli.data import AnyTask, open_task
from einsearch_cli.errors import EinsearchError, SpecError
from einsearch_cli.structures import (
    LayerSpec,
    MixtureOfExperts,
    parse_structure,
    read_structure_file,
    structure_of_entry,
)
from einsearch_cli.structures.extent import parse_rational
from einsearch_cli.structures.safe_yaml import Location, YamlDocument, load_yaml_file
from einsearch_cli.taxonomy import Bounds, Space, survivors
from einsearch_cli.training import OptimizerSettings

YARDSTICK = "dense"
MAX_CANDIDATES = 500
_STRICT = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SpaceSpec(BaseModel):
    """A grid of structures, pruned."""

    model_config = _STRICT

    grid: int = Field(ge=1, le=24)
    """Exponents are multiples of 1/grid."""
    factors: int = Field(default=2, ge=1, le=4)
    """Largest number of factors."""
    min_psi: str | float = "1"
    """Smallest rank exponent ψ."""
    max_omega: str | float = "0"
    """Largest parameter sharing ω."""
    max_nu: str | float = "1"
    """Largest compute exponent ν."""
    family: str | None = None
    """Only this family."""
    limit: int | None = Field(default=None, ge=1)
    """Take no more than this many, best ω, ψ, ν first."""
    experts: int | None = None
    """Make layers of so many experts of every structure; with `top`."""
    top: int | None = None
    """Experts that a token goes through; with `experts`."""

    @model_validator(mode="after")
    def _check_experts(self) -> Self:
        if (self.experts is None) != (self.top is None):
            raise ValueError("experts and top are given both or neither")
        return self

    def structures(self) -> list[LayerSpec]:
        """The structures of the grid, or layers of experts made of them."""
        bounds = Bounds(*(parse_rational(str(value), "space") for value in (self.min_psi, self.max_omega, self.max_nu)))
        found = survivors(Space(self.grid, self.factors, bounds, self.family))[: self.limit]
        if self.experts is None or self.top is None:
            return list(found)
        return [MixtureOfExperts(structure, self.experts, self.top) for structure in found]


class HalvingSpec(BaseModel):
    """Successive halving (Jamieson and Talwalkar 2016): train all on little, go on with the best."""

    model_config = _STRICT

    rungs: int = Field(default=2, ge=1, le=10)
    """Compute levels; the last one is the full budget."""
    factor: int = Field(default=3, ge=2, le=100)
    """Each rung has this many times the budget of the one before."""
    keep: float = Field(default=0.5, gt=0, le=1)
    """Share of the structures that goes on from each rung; the yardstick and the baselines always do."""


class StudySpec(BaseModel):
    """A study: candidates, task, widths, seeds and budget.

    >>> StudySpec(structures=["monarch"]).candidates()
    [parse_structure('XA^1 YA^1'), parse_structure('XA^1/2 XAB^1/2 YB^1/2 YAB^1/2')]
    """

    model_config = _STRICT

    name: str = Field(default="study", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the study and of its folder under runs/."""
    task: str = "teacher"
    """Proxy task: teacher or text."""
    task_settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the task; see `einsearch tasks`."""
    structures: list[Any] = Field(default_factory=list)
    """Candidates as text or mappings: structures, or layers of experts such as btt-moe:experts=8,top=2."""
    baselines: list[Any] = Field(default_factory=list)
    """Candidates that, like dense, go on to every rung, and that all others are compared with too."""
    files: list[str] = Field(default_factory=list)
    """Files of candidates, relative to the study file."""
    space: SpaceSpec | None = None
    """A pruned grid of candidates."""
    widths: list[int] = Field(default=[64, 128, 256], min_length=1)
    """Widths that every candidate is trained at."""
    seeds: int = Field(default=3, ge=1, le=1000)
    """Runs per candidate and width, from seeds 0, 1, …"""
    budget_flops: float = Field(default=1e11, gt=0, allow_inf_nan=False)
    """Training FLOPs of every run of the last rung (forward and backward pass, embeddings and head left out)."""
    halving: HalvingSpec = HalvingSpec()
    """Successive halving."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimizer, the same for every candidate."""
    ablate_balance: bool = False
    """Train each candidate with experts once more, at its best width, without the loss that balances their load."""

    @field_validator("widths")
    @classmethod
    def _check_widths(cls, widths: list[int]) -> list[int]:
        if any(not 1 <= width <= 1_000_000 for width in widths) or len(set(widths)) != len(widths):
            raise ValueError("widths must be different numbers from 1 to 1000000")
        return sorted(widths)

    def compared_with(self) -> list[LayerSpec]:
        """The yardstick, then the baselines, each once: what every candidate is compared with.

        >>> [str(layer) for layer in StudySpec(baselines=["monarch", "dense"]).compared_with()]
        ['XA^1 YA^1', 'XA^1/2 XAB^1/2 YB^1/2 YAB^1/2']
        """
        named = [structure_of_entry(entry, f"baselines[{i}]").layer for i, entry in enumerate(self.baselines)]
        return list(dict.fromkeys([parse_structure(YARDSTICK), *named]))

    def candidates(self, folder: Path = Path()) -> list[LayerSpec]:
        """The yardstick first, then the baselines, then the other candidates in order, each once.

        Raises:
            EinsearchError: for an entry or file that holds no structure.
        """
        found = self.compared_with()
        found += [structure_of_entry(e, f"structures[{i}]").layer for i, e in enumerate(self.structures)]
        found += [named.layer for file in self.files for named in read_structure_file(folder / file)]
        found += self.space.structures() if self.space else []
        distinct = list(dict.fromkeys(found))
        if not 2 <= len(distinct) <= MAX_CANDIDATES:
            raise SpecError(
                f"the study has {len(distinct) - 1} candidates beside dense: it needs 1 to {MAX_CANDIDATES - 1}",
                remedy="give structures, baselines, files or a space"
                if len(distinct) < 2
                else "set space.limit, or tighten the bounds",
            )
        return distinct

    def open_task(self) -> AnyTask:
        """The task with its settings checked."""
        return open_task(self.task, self.task_settings)


def load_study_spec(path: Path) -> StudySpec:
    """Read a study from YAML.

    Raises:
        SpecError: with file and line of the first key or value that is wrong.
    """
    document = load_yaml_file(path)
    prefix: Location = ("structures",)
    data = document.data
    if isinstance(data, list):
        data, prefix = {"structures": data}, ()
    if not isinstance(data, dict):
        raise SpecError(f"{path}: a study is a mapping of keys", remedy="see specs/demo.yaml")
    named = {"name": _folder_name(path.stem), **{str(key): value for key, value in data.items()}}
    spec = parse_study_spec(named, document)
    _check_parts(spec, document, prefix)
    return spec


def parse_study_spec(data: dict[str, Any], document: YamlDocument | None = None) -> StudySpec:
    """Check the keys and values of a study."""
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "study"
        where = f"{document.where(first['loc'])}: " if document else ""
        if first["type"] == "extra_forbidden":
            raise SpecError(f"{where}unknown key {key!r}", remedy=f"use one of: {_known_keys(first['loc'])}") from None
        raise SpecError(
            f"{where}{key} is {str(first['input'])[:60]!r}: {first['msg'][:1].lower()}{first['msg'][1:]}",
            remedy=f"give {key} a value that obeys this rule; see specs/demo.yaml",
        ) from None


_NESTED: dict[str, type[BaseModel]] = {"space": SpaceSpec, "halving": HalvingSpec, "optimizer": OptimizerSettings}


def _known_keys(location: tuple[int | str, ...]) -> str:
    """The keys of the model that the last part of a location belongs to."""
    model: type[BaseModel] = StudySpec
    for part in location[:-1]:
        model = _NESTED.get(str(part), model)
    return ", ".join(model.model_fields)


def _folder_name(stem: str) -> str:
    """A file's name as the name of a study: other characters than letters, digits, . _ - become -."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:64] or "study"


def _check_parts(spec: StudySpec, document: YamlDocument, prefix: Location) -> None:
    """Read structures and task settings once with their place in the file, for the message."""
    for position, entry in enumerate(spec.structures):
        structure_of_entry(entry, document.where((*prefix, position)))
    for position, entry in enumerate(spec.baselines):
        structure_of_entry(entry, document.where(("baselines", position)))
    try:
        spec.open_task()
    except EinsearchError as error:
        raise SpecError(f"{document.where(('task_settings',))}: {error.problem}", remedy=error.remedy) from error
