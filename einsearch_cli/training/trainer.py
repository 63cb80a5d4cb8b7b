"""A mix-in for the Trainer of transformers."""

from __future__ import annotations

from typing import Any

from torch import nn

from einsearch_cli.moe import AuxiliaryLoss
from einsearch_cli.structures import AUXILIARY_WEIGHT
from einsearch_cli.training.groups import optimizer_groups


class StructuredTraining:
    """A mix-in for `class MyTrainer(StructuredTraining, Trainer)`: learning rates of factors, and balanced experts.

    Works with the `Trainer` of transformers, and with trainers derived from it, such as those of trl.

    - The optimizer that `optim=` names gets the groups of `optimizer_groups`: factors have learning rates of their own,
      relative to `learning_rate`, and gains, biases and norms do not decay. Schedules of the Trainer keep the ratios.
      An optimizer that is given, and one that takes other groups (GaLore, LOMO), stays as it is.
    - In training the auxiliary loss of the model's layers of experts is added; padding, where `attention_mask` is 0,
      does not count. A model without experts trains as before.
    """

    auxiliary_weight = AUXILIARY_WEIGHT
    """Weight of the auxiliary loss."""

    # Attributes of the Trainer that is mixed in.
    model: Any
    args: Any
    optimizer: Any
    optimizer_cls_and_kwargs: Any
    get_optimizer_cls_and_kwargs: Any
    loss_is_scaled_for_ga: bool | None
    model_accepts_loss_kwargs: bool
    compute_loss_func: Any
    current_gradient_accumulation_steps: int

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """The given optimizer, or the one that `optim=` names."""
        own = self.model if model is None else model
        if self.optimizer is None:
            kind, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, own)
            takes_groups = isinstance(kind, type) and not options.keys() & {"params", "model", "optimizer_dict"}
            if takes_groups and "lr" in options:
                self.optimizer = kind(optimizer_groups(own, options["lr"], self.args.weight_decay), **options)
        return super().create_optimizer(model)  # type: ignore[misc]

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of the Trainer; in training, plus the auxiliary loss."""
        config = getattr(self.model, "config", None)
        mask = None if getattr(config, "is_encoder_decoder", False) else inputs.get("attention_mask")
        with AuxiliaryLoss(model, self.auxiliary_weight, mask=mask) as auxiliary:
            found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        if not model.training:
            return found
        loss, *outputs = found if return_outputs else (found,)
        loss = loss + auxiliary.loss().to(loss.device) / self._micro_batches(num_items_in_batch)
        return (loss, *outputs) if return_outputs else loss

    def _micro_batches(self, num_items_in_batch: Any) -> int:
        """The number of micro-batches of a step, if the Trainer does not divide by it itself."""
        is_scaled = self.loss_is_scaled_for_ga
        if is_scaled is None:
            by_model = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            is_scaled = by_model or self.compute_loss_func is not None
        return self.current_gradient_accumulation_steps if is_scaled else 1
