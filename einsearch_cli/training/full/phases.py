"""The steps of a run: which ones are guided, which tokens they see, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass

from einsearch_cli.errors import SpecError
from einsearch_cli.guided import flop_matched_guide, guide_is_evaluated, guide_layers, guide_weight
from einsearch_cli.models import TRAINING_TO_FORWARD, FlopCount
from einsearch_cli.models.transformer import TransformerConfig, dense_twin, meta_transformer
from einsearch_cli.structures import parse_structure
from einsearch_cli.training.full.train_spec import TrainSpec
from einsearch_cli.training.update import GuideStep


@dataclass(frozen=True, kw_only=True)
class Phases:
    """All facts about the steps of a run that are known before it starts."""

    steps: int
    """Number of optimizer updates."""
    guided_steps: int
    """Steps with guides, at the start of the run."""
    repeated_steps: int
    """Steps at the end of the run that see the tokens of the first ones again."""
    tokens_per_step: int
    params: int
    """Trainable numbers without guides."""
    guide_params: int
    state_bytes: int
    """Bytes of the optimizer's state; with guides, if the run ever has guides."""
    body_flops: int
    """Training FLOPs of a step without guides, embeddings and head."""
    head_flops: int
    """Training FLOPs of the head in a step."""
    guide_flops: int
    """Training FLOPs of all guides in a step that evaluates them."""
    dense_flops: int
    """Training FLOPs of a step of the dense model, without embeddings and head."""
    stochastic: bool
    seed: int

    def guide(self, step: int) -> GuideStep | None:
        """The state of the guides in `step` (0-based); None after they have ended."""
        if step >= self.guided_steps:
            return None
        weight = guide_weight(step, self.guided_steps)
        return GuideStep(weight=weight, evaluate=not self.stochastic or guide_is_evaluated(step, weight, self.seed))

    def data_step(self, step: int) -> int:
        """The step whose tokens this one sees."""
        fresh = self.steps - self.repeated_steps
        return step if step < fresh else step - fresh

    def flops_of(self, step: int) -> int:
        """Training FLOPs of a step without embeddings and head: three forward passes, recomputation not counted."""
        guide = self.guide(step)
        return self.body_flops + (self.guide_flops if guide is not None and guide.evaluate else 0)

    def flops_before(self, step: int) -> int:
        """Training FLOPs of all steps before this one, without embeddings and head."""
        return step * self.body_flops + self._evaluated_before(step) * self.guide_flops

    def _evaluated_before(self, step: int) -> int:
        """Steps before this one that compute the guides; random draws have to be repeated to be counted."""
        guided = min(step, self.guided_steps)
        if not self.stochastic:
            return guided
        weights = (guide_weight(earlier, self.guided_steps) for earlier in range(guided))
        return sum(guide_is_evaluated(earlier, weight, self.seed) for earlier, weight in enumerate(weights))


def phases_of(spec: TrainSpec, config: TransformerConfig) -> Phases:
    """The steps of a run, from its spec and network; nothing is allocated.

    Raises:
        SpecError: a guide for a network without structured layers, or `flop_matched` with a dense model that costs
            no more than the structured one.
        LayerError: a guide for layers of experts.
    """
    model = meta_transformer(config)
    tokens = spec.tokens_per_step
    count = model.flops_per_token()
    params = model.parameter_count()
    dense = meta_transformer(dense_twin(config)).flops_per_token()
    guide_flops = guide_params = guided_steps = repeated_steps = 0
    if spec.guidance is not None:
        if config.layer_spec == parse_structure("dense"):
            raise SpecError(
                f"guidance in {spec.name}: its layers are dense, guides lead structured ones",
                remedy="give model.structure, or leave guidance out (--set guidance=null)",
            )
        guide = guide_layers(model)
        guide_flops, guide_params = guide.flops_per_token, model.parameter_count() - params
        guided_steps = _guided_steps(spec, count, dense, guide_flops)
        repeated_steps = guided_steps if spec.guidance.flop_matched else 0
    kind, options = spec.optimizer.applied_to(model)
    training = TRAINING_TO_FORWARD * tokens
    return Phases(
        steps=spec.base_steps + repeated_steps,
        guided_steps=guided_steps,
        repeated_steps=repeated_steps,
        tokens_per_step=tokens,
        params=params,
        guide_params=guide_params,
        state_bytes=kind.bytes_kept(model, options),
        body_flops=training * count.body,
        head_flops=training * count.head,
        guide_flops=training * guide_flops,
        dense_flops=training * dense.body,
        stochastic=spec.guidance is not None and spec.guidance.mode == "stochastic",
        seed=spec.seed,
    )


def _guided_steps(spec: TrainSpec, count: FlopCount, dense: FlopCount, guide_flops: int) -> int:
    guidance = spec.guidance
    assert guidance is not None
    if not guidance.flop_matched:
        return max(1, round(guidance.ratio * spec.base_steps))
    guided = flop_matched_guide(
        spec.base_steps,
        dense_flops=dense.total,
        structured_flops=count.total,
        guide_flops=guide_flops,
        stochastic=guidance.mode == "stochastic",
    )
    if guided < 1:
        raise SpecError(
            f"guidance.flop_matched: the structured model costs {count.total:,} FLOPs per token and the dense one "
            f"{dense.total:,}, which leaves nothing to guide with",
            remedy="choose a cheaper structure, more steps, or guidance.ratio",
        )
    return guided
