"""Refusals of the library that reads the command line have the form of all errors: value, rule, and what to try."""

from __future__ import annotations

import shlex

import pytest

FORMATS = "table, json, jsonl, csv, yaml"


@pytest.mark.parametrize(
    ("words", "problem", "remedy"),
    [
        ("rank demo --by zzz", "--by zzz: one of flops, total, seconds is needed", "--by flops, total or seconds"),
        ("rank demo --by second", "--by second: one of flops, total, seconds is needed", "--by seconds"),
        ("rank demo --by", "--by has no value: one of flops, total, seconds is needed", "--by flops, total or seconds"),
        (
            "rank demo --format parquet",
            f"--format parquet: one of {FORMATS}, markdown is needed",
            f"--format {FORMATS} or markdown",
        ),
        ("rank demo --budget", "--budget has no value: NUMBER is needed", "einsearch rank --help"),
        ("rank demo --dry-run=yes", "--dry-run has a value: it takes none", "--dry-run"),
        (
            "rank demo --by seconds --buget 1",
            "--buget: einsearch rank has no such option",
            "--budget, or einsearch rank --help",
        ),
        ("--zzz", "--zzz: einsearch has no such option", "einsearch --help"),
        (
            "export runs/a --to onx --out a.onnx",
            "--to onx: one of safetensors, dense, torch-export, onnx, hf is needed",
            "--to onnx",
        ),
        (
            "suggest --prefer ''",
            "--prefer '': one of training, decoding, memory is needed",
            "--prefer training, decoding or memory",
        ),
        ("evidence", "ACTION is missing: one of add, list is needed", "einsearch evidence add runs/demo"),
        (
            "generate runs/a",
            "--prompt is missing: it has no default",
            "einsearch generate runs/low-rank --prompt 'def ' --temperature 0.8 --top-p 0.95",
        ),
        ("draw monarch btt", "btt: einsearch draw takes no argument after SPEC", "einsearch draw --help"),
        ("tasks all of them", "'all of them': einsearch tasks takes no argument", "einsearch tasks --help"),
        ("project a --keep half --out b", "--keep half: a number above 0 and below 1 is needed", "--keep 0.5"),
    ],
)
def test_a_refusal_says_value_rule_and_remedy(einsearch, words: str, problem: str, remedy: str) -> None:
    found = einsearch(*shlex.split(words))
    assert (found.code, found.out, found.err) == (2, "", f"error: {problem}\n  try: {remedy}\n")
