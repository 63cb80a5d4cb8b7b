"""The settings of a study, from YAML or the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from einsearch_cli.errors import EinsearchError, SpecError, near_or_all
from einsearch_cli.search.bound import Bound, LeastPsi, nothing_passes
from einsearch_cli.search.controls import with_controls
from einsearch_cli.search.explore_spec import NAMED, ExploreSpec
from einsearch_cli.settings import (
    Duration,
    FolderName,
    Origin,
    RuleError,
    Settings,
    Whole,
    folder_name,
    in_code,
    in_document,
    read_settings,
)
from einsearch_cli.settings.wording import yaml_text
from einsearch_cli.structures import (
    FAMILIES,
    LayerSpec,
    MixtureOfExperts,
    parse_structure,
    read_structure_file,
    structure_of_entry,
)
from einsearch_cli.structures.families.recognition import GENERIC
from einsearch_cli.structures.safe_yaml import Location, load_yaml_file
from einsearch_cli.tasks import AnyTask, find_task, open_task
from einsearch_cli.taxonomy import Bounds, Space, survivors
from einsearch_cli.taxonomy.emptying import has_structures, relaxed_bounds
from einsearch_cli.training import OptimizerSettings
from einsearch_cli.training.precision import Precision

YARDSTICK = "dense"
MAX_CANDIDATES = 500
MAX_BUDGET_FLOPS: Final = 1e24
"""The most FLOPs of one run; the largest published runs took about 5e25, on tens of thousands of accelerators."""
BUDGETS: Final = ("budget_flops", "total_flops", "time")
"""Settings of which a study has exactly one."""
CONFIRMING_SEED: Final = 1000
"""First seed of confirmations: their seeds are this much higher than those of the ranking, which stay below it."""

Width = Annotated[Whole, Field(ge=1, le=1_000_000)]
"""Width of a network."""


def _check_family(name: str) -> str:
    if name != GENERIC and name.lower() not in FAMILIES:
        known = (*FAMILIES, GENERIC)
        raise RuleError(f"one of {', '.join(known)} is needed", remedy=near_or_all(name.lower(), known))
    return name.lower()


class SpaceSpec(Settings):
    """A grid of structures, pruned."""

    grid: Whole = Field(ge=1, le=24, examples=[4])
    """Denominator of the exponents: they are multiples of 1/grid."""
    factors: Whole = Field(default=2, ge=1, le=4)
    """Largest number of factors."""
    min_psi: LeastPsi = "1"
    """Smallest rank exponent ψ."""
    max_omega: Bound = "0"
    """Largest parameter sharing ω."""
    max_nu: Bound = "1"
    """Largest compute exponent ν."""
    family: Annotated[str, AfterValidator(_check_family)] | None = Field(default=None, examples=["monarch"])
    """The only family to keep; `generic` for structures of no family."""
    limit: Whole | None = Field(default=None, ge=1, le=1_000_000_000, examples=[20])
    """The most structures to take, best ω, ψ, ν first."""
    experts: Whole | None = None
    """Number of experts of the layers that are made of the structures; needs `top`."""
    top: Whole | None = None
    """Experts that a token goes through; needs `experts`."""

    @model_validator(mode="after")
    def _check_experts(self) -> Self:
        if (self.experts is None) != (self.top is None):
            raise RuleError("experts and top are given both or neither", remedy="experts: 8, top: 2")
        if self.experts is not None and self.top is not None:
            try:
                MixtureOfExperts(parse_structure(YARDSTICK), self.experts, self.top)
            except EinsearchError as error:
                error.keys = ("experts", "top")
                raise
        return self

    def structures(self) -> list[LayerSpec]:
        """The structures of the grid, or layers of experts made of them.

        Raises:
            SpecError: there is none besides dense; the message names the criterion that leaves nothing.
        """
        bounds = Bounds(*map(Fraction, (self.min_psi, self.max_omega, self.max_nu)))
        space = Space(self.grid, self.factors, bounds, self.family)
        found = survivors(space)
        if not any(self.experts or len(structure.factors) > 1 for structure in found):
            raise self._refusal(space)
        if self.experts is None or self.top is None:
            return [*found[: self.limit]]
        return [MixtureOfExperts(structure, self.experts, self.top) for structure in found[: self.limit]]

    def _refusal(self, space: Space) -> SpecError:
        of_family = f" of family {self.family}" if self.family else ""
        finer = (grid for grid in (2, 3, 4, 6) if grid > self.grid and has_structures(replace(space, grid=grid)))
        return nothing_passes(
            f"space: dense aside, no structure{of_family} with factors = {self.factors} and grid = {self.grid}",
            space.bounds,
            {name: str(value) for name, value in relaxed_bounds(space).items()},
            *(["factors = 2"] if self.factors == 1 else []),
            *(["no family"] if self.family and has_structures(replace(space, family=None)) else []),
            *(f"grid = {grid}" for grid in islice(finer, 1)),
        )


class HalvingSpec(Settings):
    """Successive halving (Jamieson and Talwalkar 2016): train all on a small budget, go on with the best."""

    rungs: Whole = Field(default=3, ge=1, le=10)
    """Compute levels; the last one is the full budget. A trend needs three, a scaling law four."""
    factor: Whole = Field(default=3, ge=2, le=100)
    """Budget of each rung, as a multiple of the one before."""
    keep: float = Field(default=0.5, gt=0, le=1)
    """Share of the structures that goes on from each rung; the yardstick and the baselines always do."""


class StudySpec(Settings):
    """A study: candidates, task, widths, seeds and budget.

    >>> StudySpec(structures=["monarch"]).candidates()
    [parse_structure('XA^1 YA^1'), parse_structure('XA^1/2 XAB^1/2 YB^1/2 YAB^1/2')]
    """

    name: FolderName = "study"
    """Name of the study and of its folder under runs/."""
    task: str = "teacher"
    """Proxy task; `einsearch tasks` lists them."""
    task_settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the task; see `einsearch tasks`."""
    structures: list[Any] = Field(default_factory=list, examples=[["monarch", "btt:r=2"]])
    """Candidates as text or mappings: structures, or layers of experts such as btt-moe:experts=8,top=2."""
    baselines: list[Any] = Field(default_factory=list, examples=[["low-rank"]])
    """Candidates that, like dense, go on to every rung, and with which all others are compared."""
    files: list[str] = Field(default_factory=list, examples=[["more.yaml"]])
    """Files of candidates, relative to the study file."""
    space: SpaceSpec | None = None
    """A pruned grid of candidates."""
    explore: ExploreSpec | None = None
    """A search for candidates in the continuous space, before all are ranked; `einsearch search` sets it."""
    widths: list[Width] | None = Field(default=None, min_length=1, examples=[[64, 128, 256]])
    """Widths at which every candidate is trained, from all seeds.

    By default the best width of every candidate is searched on every rung, with one run per width, and the seeds go to
    it and its two neighbours.
    """
    rates: Literal["tuned", "fixed"] = "tuned"
    """Learning rates: tuned on the cheapest rung for every candidate, or the optimizer's for all."""
    controls: bool = True
    """Whether to train controls too: candidates without their experts, and without their bonds."""
    confirm: Whole = Field(default=1, ge=0, le=100)
    """How many of the best are trained again, with the yardstick, from seeds that had no part in any decision."""
    seeds: Whole = Field(default=3, ge=1, le=1000)
    """Runs per candidate and width."""
    most_seeds: Whole | None = Field(default=None, ge=1, le=CONFIRMING_SEED, examples=[12])
    """Most seeds on the last rung for candidates that would be without a verdict."""
    first_seed: Whole = Field(default=0, ge=0, le=CONFIRMING_SEED - 1)
    """The first of these seeds. A study repeated with other seeds is independent."""
    budget_flops: float = Field(default=1e11, gt=0, le=MAX_BUDGET_FLOPS)
    """Training FLOPs of every run of the last rung (forward and backward pass, without embeddings and head)."""
    total_flops: float | None = Field(default=None, gt=0, le=MAX_BUDGET_FLOPS)
    """Training FLOPs of all runs together, instead of `budget_flops`; the budget of a run follows from them."""
    time: Duration | None = Field(default=None, examples=["2h"])
    """Time that the study is estimated to take here, such as 2h, 90m or 3600s: it sets the budget and stops nothing."""
    halving: HalvingSpec = HalvingSpec()
    """Successive halving."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimizer, the same for every candidate."""
    precision: Precision = "float32"
    """bfloat16 is autocast: products in bfloat16, weights and optimizer in float32."""
    coordinates: bool = False
    """Check after the study how the outputs of all layers change with the width (coordinate check), at the tuned rates.
    """
    ablate_balance: bool = False
    """Train each candidate with experts again, at its best width, without the loss that balances their load."""

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        if len(given := [name for name in BUDGETS if name in self.model_fields_set and getattr(self, name)]) > 1:
            raise RuleError(f"{given[0]} and {given[1]} say the same in two ways", remedy="keep one of them")
        return self

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        if self.most_seeds is not None and self.most_seeds < self.seeds:
            raise RuleError(
                f"most_seeds = {self.most_seeds}, but every candidate has {self.seeds} seeds",
                remedy=f"most_seeds: {4 * self.seeds}",
            )
        if (last := self.first_seed + self.looks[-1] - 1) >= CONFIRMING_SEED:
            raise RuleError(
                f"the last seed is {last}: seeds from {CONFIRMING_SEED} on are kept for the confirmation",
                remedy=f"first_seed: {CONFIRMING_SEED - self.looks[-1]}",
            )
        return self

    @property
    def ranking_seeds(self) -> range:
        """The seeds that every candidate gets."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds per width at which verdicts are examined: doubled up to `most_seeds`.

        >>> StudySpec(seeds=3, most_seeds=10).looks, StudySpec(seeds=3).looks
        ((3, 6, 10), (3,))
        """
        found = [self.seeds]
        while found[-1] < (self.most_seeds or 0):
            found.append(min(2 * found[-1], self.most_seeds or 0))
        return tuple(found)

    @property
    def is_tuned(self) -> bool:
        """Whether every candidate gets a learning rate of its own."""
        return self.rates == "tuned"

    @field_validator("widths")
    @classmethod
    def _check_widths(cls, widths: list[int] | None) -> list[int] | None:
        if widths is None:
            return None
        twice = next((width for width in widths if widths.count(width) > 1), None)
        if twice is not None:
            raise RuleError(
                f"{twice} is listed twice, and each width may be listed only once",
                remedy=yaml_text(sorted(set(widths))),
            )
        return sorted(widths)

    def compared_with(self) -> list[LayerSpec]:
        """The yardstick and the baselines, each once, with which every candidate is compared.

        >>> [str(layer) for layer in StudySpec(baselines=["monarch", "dense"]).compared_with()]
        ['XA^1 YA^1', 'XA^1/2 XAB^1/2 YB^1/2 YAB^1/2']
        """
        named = [structure_of_entry(entry, f"baselines[{i}]").layer for i, entry in enumerate(self.baselines)]
        return list(dict.fromkeys([parse_structure(YARDSTICK), *named]))

    def candidates(self, folder: Path = Path()) -> list[LayerSpec]:
        """The yardstick first, then the baselines, then the other candidates in order, each once."""
        found = self.compared_with()
        found += [structure_of_entry(e, f"structures[{i}]").layer for i, e in enumerate(self.structures)]
        found += [named.layer for file in self.files for named in read_structure_file(folder / file)]
        found += self.space.structures() if self.space else []
        if self.explore is not None and len(set(found)) == 1:
            found += map(parse_structure, NAMED)
        distinct = list(dict.fromkeys(found))
        if not 2 <= len(distinct) <= MAX_CANDIDATES:
            raise SpecError(
                f"the study has {len(distinct) - 1} candidates besides dense: it needs 1 to {MAX_CANDIDATES - 1}",
                remedy="give structures, baselines, files or a space"
                if len(distinct) < 2
                else "set space.limit, or tighten the bounds",
            )
        return distinct

    def controls_of(self, candidates: Sequence[LayerSpec]) -> dict[LayerSpec, tuple[LayerSpec, ...]]:
        """Structures that are also trained, each with the candidates that brought it; empty if `controls` is off.

        >>> spec = StudySpec(structures=["btt:r=4"])
        >>> [str(layer) for layer in spec.controls_of(spec.candidates())]
        ['XA^1/2 XAB^1/2 YB^1/2 YAB^1/2']
        """
        return with_controls(candidates) if self.controls else {}

    def open_task(self) -> AnyTask:
        """The task, with its settings checked."""
        return open_task(self.task, self.task_settings)


def load_study_spec(path: Path) -> StudySpec:
    """Read a study from YAML."""
    document = load_yaml_file(path)
    origin, data = in_document(document), document.data
    prefix: Location = ("structures",)
    if isinstance(data, list):
        data, prefix = {"structures": data}, ()
    if not isinstance(data, dict):
        raise SpecError(f"{path}: a study is a mapping of keys", remedy="structures: [monarch, btt:r=2]")
    spec = parse_study_spec({"name": folder_name(path.stem, "study"), **data}, origin)
    typed = document.typed if isinstance(document.typed, dict) else {"structures": document.typed}
    named = {key: typed[key] for key in ("structures", "baselines") if isinstance(typed.get(key), list)}
    for key, entries in named.items():  # read once with their places in the file, for messages
        for number, entry in enumerate(entries):
            structure_of_entry(entry, document.where((*(prefix if key == "structures" else (key,)), number)))
    for number, name in enumerate(spec.files):
        if not (path.parent / name).is_file():
            where = document.where(("files", number))
            raise SpecError(
                f"{where}: there is no file {path.parent / name}", remedy="give its path from the study's folder"
            )
    _check_task(spec, origin)
    settings = find_task(spec.task).settings_type.rebased(spec.task_settings, path.parent)
    return spec.model_copy(update={**named, "task_settings": settings})


def parse_study_spec(data: Mapping[str, Any], origin: Origin = in_code) -> StudySpec:
    """Check the keys and values of a study; `origin` says how they were given."""
    return read_settings(StudySpec, data, origin)


def _check_task(spec: StudySpec, origin: Origin) -> None:
    """Read the settings of the task with their place in the file, for the message."""
    try:
        kind = find_task(spec.task)
    except SpecError as error:
        raise SpecError(f"{origin(('task',)).place}{error.problem}", remedy=error.remedy) from error
    read_settings(kind.settings_type, spec.task_settings, lambda location: origin(("task_settings", *location)))
