"""The scaling law of every structure of a study, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from einsearch_cli.errors import FitError
from einsearch_cli.scaling.law import Crossover, Law, Laws, LossCurve, Prediction, check_curve, fit_laws
from einsearch_cli.scaling.noise import Noise
from einsearch_cli.scaling.surface import Surface


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A structure's scaling law, or the reason why there is none."""

    law: Law | None = None
    crossover: Crossover | None = None
    """The crossing with the yardstick's law; None if the laws do not meet within three decades of the runs."""
    prediction: Prediction | None = None
    """The prediction at the requested compute."""
    reason: str | None = None
    """Why there is no law, and what would help."""


def outlooks(
    surfaces: Mapping[Hashable, Surface], noise: Noise, yardstick: Hashable, at: float | None = None
) -> dict[Hashable, Outlook]:
    """The laws of all structures with a common L0; if that fits badly, each with its own."""
    curves: dict[Hashable, LossCurve] = {}
    found: dict[Hashable, Outlook] = {}
    for name, one in surfaces.items():
        try:
            curves[name] = LossCurve.of_surface(name, one, noise)
            check_curve(name, curves[name])
        except FitError as error:
            curves.pop(name, None)
            found[name] = Outlook(reason=_said(error))
    try:
        whole = fit_laws(curves) if curves else None
    except FitError:
        whole = None
    for name, curve in curves.items():
        try:
            laws = whole or fit_laws({name: curve, yardstick: curves.get(yardstick, curve)}, shared_floor=False)
            found[name] = Outlook(
                law=laws.law(name),
                crossover=_crossover(laws, name, yardstick),
                prediction=None if at is None else laws.predict(name, at),
            )
        except FitError as error:
            found[name] = Outlook(reason=_said(error))
    return found


def _said(error: FitError) -> str:
    """The error in one sentence: what is wrong, and what would help."""
    return error.problem if error.remedy is None else f"{error.problem}: {error.remedy}"


def _crossover(laws: Laws, name: Hashable, yardstick: Hashable) -> Crossover | None:
    if name == yardstick or yardstick not in laws.curves:
        return None
    try:
        return laws.crossover(name, yardstick)
    except FitError:
        return None
