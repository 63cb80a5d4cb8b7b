"""Trained models for other programs: safetensors, plain dense layers, `torch.export`, ONNX, Hugging Face."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.export.compressing import SWAPS_ENTRY, Names, compress_file, compress_transformer
    from einsearch_cli.export.copies import ServingLinear, dense_copy, serving_copy
    from einsearch_cli.export.hugging_face import load_swapped, save_swapped
    from einsearch_cli.export.placing import refuse_existing, refuse_other_than_safetensors
    from einsearch_cli.export.programs import save_onnx, save_program
    from einsearch_cli.export.safetensors_file import load_transformer, save_run, save_transformer
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "compressing": ("SWAPS_ENTRY", "Names", "compress_file", "compress_transformer"),
            "copies": ("ServingLinear", "dense_copy", "serving_copy"),
            "hugging_face": ("load_swapped", "save_swapped"),
            "programs": ("save_onnx", "save_program"),
            "safetensors_file": ("load_transformer", "save_run", "save_transformer"),
            "placing": ("refuse_existing", "refuse_other_than_safetensors"),
        },
    )

__all__ = [
    "SWAPS_ENTRY",
    "Names",
    "ServingLinear",
    "compress_file",
    "compress_transformer",
    "dense_copy",
    "load_swapped",
    "load_transformer",
    "refuse_existing",
    "refuse_other_than_safetensors",
    "save_onnx",
    "save_program",
    "save_run",
    "save_swapped",
    "save_transformer",
    "serving_copy",
]
