"""einsearch finds better linear layers.

The names below load what they need on first use, so that commands which
never train start without torch.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from einsearch_cli import moved
from einsearch_cli.after_import import after_import
from einsearch_cli.lazy import lazy_names
from einsearch_cli.version import __version__ as __version__

if TYPE_CHECKING:
    from einsearch_cli.compression import compress as compress
    from einsearch_cli.export import (
        dense_copy as dense_copy,
        load_swapped as load_swapped,
        save_swapped as save_swapped,
    )
    from einsearch_cli.layers import (
        EinsumLinear as EinsumLinear,
        merge as merge,
        merged as merged,
        unmerge as unmerge,
    )
    from einsearch_cli.moe import AuxiliaryLoss as AuxiliaryLoss, StructuredMoE as StructuredMoE
    from einsearch_cli.reports import read_study as read_study
    from einsearch_cli.structures import Structure as Structure, parse_structure as parse_structure
    from einsearch_cli.swap import (
        SwapReport as SwapReport,
        apply_swaps as apply_swaps,
        plan_swaps as plan_swaps,
        swap_linear as swap_linear,
    )
    from einsearch_cli.taxonomy import classify as classify
    from einsearch_cli.training.groups import optimizer_groups as optimizer_groups
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)

    def __dir__() -> list[str]:
        """The public names, for completion and `dir`."""
        return sorted(__all__)


sys.meta_path.insert(0, moved.MovedModules())

# These calls let other packages find swapped models, in whatever order they are imported: `from_pretrained` of
# transformers and diffusers loads them, LoRA of peft finds their layers, and so does `quantize_` of torchao.
after_import("transformers.quantizers.auto", "einsearch_cli.export.transformers_models:register_layers")
after_import("transformers.models.auto.configuration_auto", "einsearch_cli.export.transformers_models:register_names")
after_import("diffusers.quantizers.auto", "einsearch_cli.export.diffusers_models:register_models")
after_import("peft.tuners.lora.model", "einsearch_cli.export.lora")
after_import("torchao.quantization.quant_api", "einsearch_cli.export.quantisation:register_quantisation")
