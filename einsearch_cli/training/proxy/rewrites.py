"""Rewrites of a recorded program: the same numbers by fewer operations.

A function transform records many views that change nothing, constants that are computed in every step, and products
with operands in a slow order. A step of a narrow MLP has 484 operations, of which 200 are left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from einsearch_cli.training.proxy.recording import Program

aten = torch.ops.aten

_SAME = {aten.detach.default, aten.alias.default, aten.lift_fresh.default}
"""Operations that a program without gradients may leave out."""
_RESHAPES = {aten.view.default, aten._unsafe_view.default}
_MAYBE_SAME = {*_RESHAPES, aten.expand.default, aten.permute.default, aten.transpose.int}


def rewritten(program: Program) -> Program:
    """The program after all rewrites, without the values of its nodes.

    A program that writes into its own tensors keeps all operations whose results are used.
    """
    graph = program.graph
    if not any(_writes(node) for node in graph.nodes):
        _fold_constants(program)
        for rewrite in (
            _drop_what_changes_nothing,
            _plain_selects,
            _join_views,
            _share,
            _transpose_columns,
            _add_biases,
        ):
            rewrite(graph)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        node.meta.clear()  # values of the recorded step
    return program


def _writes(node: Node) -> bool:
    return (
        node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
    )


def _value(node: Any) -> Tensor:
    found: Tensor = node.meta["val"]
    return found


def _calls(graph: Graph, *targets: Callable[..., Any]) -> list[Node]:
    return [node for node in graph.nodes if node.op == "call_function" and node.target in targets]


def _replace(node: Node, other: Node) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def _fold_constants(program: Program) -> None:
    """Compute once whatever does not depend on an input."""
    known: dict[Node, Any] = {}
    for node in list(program.graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(program, str(node.target))
        elif node.op == "call_function" and all(operand in known for operand in node.all_input_nodes):
            arguments = torch.fx.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*arguments[0], **arguments[1])
            if isinstance(known[node], Tensor):
                name = f"constant_{len(known)}"
                program.register_buffer(name, known[node].clone())
                with program.graph.inserting_before(node):
                    constant = program.graph.get_attr(name)
                constant.meta = node.meta
                known[constant] = known[node]
                node.replace_all_uses_with(constant)


def _drop_what_changes_nothing(graph: Graph) -> None:
    for node in _calls(graph, *_SAME):
        _replace(node, node.args[0])  # type: ignore[arg-type]
    for node in _calls(graph, *_MAYBE_SAME):
        after, before = _value(node), _value(node.args[0])
        if (after.shape, after.stride()) == (before.shape, before.stride()):
            _replace(node, node.args[0])  # type: ignore[arg-type]
    for node in _calls(graph, aten.mul.Scalar):
        if node.args[1] == 1:
            _replace(node, node.args[0])  # type: ignore[arg-type]


def _plain_selects(graph: Graph) -> None:
    """Turn the selection of an axis's only element, and its reverse, into views."""
    for node in _calls(graph, aten.select.int):
        if _value(node.args[0]).shape[node.args[1]] == 1:  # type: ignore[index]
            node.target, node.args = aten.squeeze.dim, (node.args[0], node.args[1])
    for node in _calls(graph, aten.select_backward.default):
        if node.args[1][node.args[2]] == 1:  # type: ignore[index]
            node.target, node.args = aten.unsqueeze.default, (node.args[0], node.args[2])


def _join_views(graph: Graph) -> None:
    for node in _calls(graph, *_RESHAPES):
        source: Any = node.args[0]
        if source.target in _RESHAPES:
            source = source.args[0]
        node.target, node.args = aten.view.default, (source, list(_value(node).shape))


def _share(graph: Graph) -> None:
    """Compute equal operations once."""
    known: dict[str, Node] = {}
    for node in list(graph.nodes):
        if node.op == "call_function":
            first = known.setdefault(f"{node.target}{node.args}{node.kwargs}", node)
            if first is not node:
                _replace(node, first)


def _add_biases(graph: Graph) -> None:
    """Let a product add its bias."""
    for node in _calls(graph, aten.add.Tensor):
        for bias, product in (node.args[:2], node.args[1::-1]):
            if not (isinstance(bias, Node) and isinstance(product, Node) and len(node.args) == 2 and not node.kwargs):
                continue
            is_row = _value(bias).ndim == 3 and _value(bias).shape[1] == 1
            is_row = is_row and _value(bias).dtype == _value(product).dtype
            if product.target is aten.bmm.default and len(product.users) == 1 and is_row and bias is not product:
                node.target, node.args = aten.baddbmm.default, (bias, *product.args)
                break


def _transpose_columns(graph: Graph) -> None:
    """Turn a product with one column into one with one row.

    MKL takes 80 µs for 48 × 512 × 1, but 8 µs the other way around; it also sums one column alone in another order than
    the columns of several runs. The row must be a view with the strides of a row. After a transposition, it would keep
    the strides of a column, by which MKL on Intel sums the rows of one run differently from those of several.
    """
    for node in _calls(graph, aten.bmm.default):
        first, second = node.args
        runs, size, columns = _value(second).shape
        if columns == 1 < _value(first).shape[1]:
            with graph.inserting_before(node):
                row = graph.call_function(aten.view.default, (second, [runs, 1, size]))
                turned = graph.call_function(aten.transpose.int, (first, 1, 2))
                product = graph.call_function(aten.bmm.default, (row, turned))
            node.target, node.args = aten.transpose.int, (product, 1, 2)
