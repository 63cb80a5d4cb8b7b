"""Samplers of Optuna that propose structures: points of a cube of exponents that pass the pruning criteria."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from einsearch_cli.errors import SpecError
from einsearch_cli.lazy import optional_package
from einsearch_cli.search.bound import nothing_passes
from einsearch_cli.search.explore_spec import ExploreSpec
from einsearch_cli.structures import LayerSpec, Structure
from einsearch_cli.taxonomy import taxonomy_of
from einsearch_cli.taxonomy.criteria import reasons_against
from einsearch_cli.taxonomy.cube import Cube

if TYPE_CHECKING:  # importing Optuna takes half a second
    import optuna

MOST_DRAWS: Final = 20_000
"""The most points drawn in a row without one that passes the criteria."""
_STARTUP: Final = 12
"""Structures that are drawn at random before a sampler learns from losses."""
_OF_PLUGIN: Final = "criteria that a plug-in registers"


def check_space(spec: ExploreSpec) -> None:
    """Check, before any training, that some structure other than dense passes the criteria.

    Raises:
        SpecError: none was found among `MOST_DRAWS` random points; the message names the criterion that leaves nothing.
    """
    import numpy as np

    if spec.factors == 1:
        raise SpecError(
            "a structure of one factor is dense: there is nothing to search for",
            remedy="factors: 2",
            keys=("factors",),
        )
    cube, random, nearest, of_plugin = Cube(spec.factors), np.random.default_rng(0), dict[str, Fraction](), False
    for _ in range(MOST_DRAWS):
        structure = cube.structure(cube.draw(random).tolist())
        if len(structure.factors) == 1:
            continue
        against = failed(structure, spec)
        if not against:
            return
        of_plugin |= against == [_OF_PLUGIN]
        if len(against) == 1 and against != [_OF_PLUGIN]:
            (name,), known = against, taxonomy_of(structure)
            value = {"min_psi": known.psi, "max_omega": known.omega, "max_nu": known.nu}[name]
            nearest[name] = (max if name == "min_psi" else min)(value, nearest.get(name, value))
    raise nothing_passes(
        f"none of {MOST_DRAWS:,} random structures of up to {spec.factors} factors",
        spec.bounds,
        {
            name: f"{(math.floor if name == 'min_psi' else math.ceil)(100 * value) / 100:g}"
            for name, value in nearest.items()
        },
        *([f"relax the {_OF_PLUGIN}"] if of_plugin else []),
    )


def failed(structure: Structure, spec: ExploreSpec) -> list[str]:
    """The settings of the criteria that a structure fails; empty if it passes all."""
    known, bounds = taxonomy_of(structure), spec.bounds
    if not reasons_against(known, bounds):
        return []
    limits = {
        "min_psi": known.psi < bounds.min_psi,
        "max_omega": known.omega > bounds.max_omega,
        "max_nu": known.nu > bounds.max_nu,
    }
    return [name for name, fails in limits.items() if fails] or [_OF_PLUGIN]


class Proposals:
    """Structures that a sampler proposes, all within the bounds; the same losses give the same proposals.

    Points outside the bounds are reported to the sampler as failed, so that it does not learn from them, and it is
    asked again.
    """

    def __init__(self, spec: ExploreSpec, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.spec, self.cube = spec, Cube(spec.factors)
        self.pruned = 0
        """Number of points that were outside the bounds."""
        self._distributions: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.FloatDistribution(low, high)
            for name, (low, high) in zip(self.cube.names, self.cube.ranges, strict=True)
        }
        self._study = optuna.create_study(sampler=_sampler(spec, seed), direction="minimize")
        self._worst = -math.inf

    def add(self, structure: LayerSpec, log_loss: float) -> None:
        """Report a structure to the sampler that it did not propose; a structure outside the space is ignored."""
        import optuna

        if not isinstance(structure, Structure) or failed(structure, self.spec):
            return
        if (point := self.cube.point(structure)) is not None and math.isfinite(log_loss):
            params = dict(zip(self.cube.names, point, strict=True))
            self._study.add_trial(optuna.create_trial(params=params, distributions=self._distributions, value=log_loss))

    def ask(self) -> tuple[optuna.Trial, Structure]:
        """The next structure, whose result `tell` takes.

        Raises:
            SpecError: the sampler finds none within the bounds.
        """
        import optuna

        for _ in range(MOST_DRAWS):
            trial = self._study.ask(self._distributions)
            structure = self.cube.structure([trial.params[name] for name in self.cube.names])
            if not failed(structure, self.spec):
                return trial, structure
            self.pruned += 1
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        raise SpecError(
            f"the sampler {self.spec.sampler} proposed {MOST_DRAWS:,} structures in a row that fail the pruning criteria",
            remedy="relax the bounds, or choose the sampler tpe",
        )

    def tell(self, trial: optuna.Trial, log_loss: float) -> None:
        """Report the loss of a proposal; one without a loss counts as the worst so far."""
        if math.isfinite(log_loss):
            self._worst = max(self._worst, log_loss)
        else:
            log_loss = self._worst if math.isfinite(self._worst) else 0.0
        self._study.tell(trial, log_loss)


def _sampler(spec: ExploreSpec, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    samplers = optuna.samplers
    match spec.sampler:
        case "random":
            return samplers.RandomSampler(seed=seed)
        case "cma-es":
            optional_package(
                "cmaes", "the sampler cma-es needs the package cmaes", "pip install 'einsearch[cmaes]'", SpecError
            )
            return samplers.CmaEsSampler(seed=seed, n_startup_trials=_STARTUP)
        case _:
            return samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, multivariate=True, constant_liar=True)
