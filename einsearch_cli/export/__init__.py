"""Trained models for other programs: safetensors, plain dense layers, `torch.export`, ONNX, Hugging Face."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.export.calibrated import compress_folder as compress_folder
    from einsearch_cli.export.calibration_data import calibration_batches as calibration_batches
    from einsearch_cli.export.compressing import (
        Names as Names,
        compress_file as compress_file,
        compress_transformer as compress_transformer,
    )
    from einsearch_cli.export.copies import (
        ServingLinear as ServingLinear,
        dense_copy as dense_copy,
        serving_copy as serving_copy,
    )
    from einsearch_cli.export.hugging_face import (
        load_swapped as load_swapped,
        save_swapped as save_swapped,
    )
    from einsearch_cli.export.placing import (
        refuse_existing as refuse_existing,
        refuse_other_than_safetensors as refuse_other_than_safetensors,
    )
    from einsearch_cli.export.programs import save_onnx as save_onnx, save_program as save_program
    from einsearch_cli.export.safetensors_file import (
        load_transformer as load_transformer,
        save_run as save_run,
        save_transformer as save_transformer,
    )
    from einsearch_cli.export.swap_notes import remember_swaps as remember_swaps
    from einsearch_cli.export.transformers_folder import save_for_transformers as save_for_transformers
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
