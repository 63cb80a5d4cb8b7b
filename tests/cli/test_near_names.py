"""Names that are nearly right are guessed; for others the names are listed."""

from __future__ import annotations

import pytest

FAMILIES = "families are dense, low-rank, kronecker, tt, monarch"


@pytest.mark.parametrize(
    ("words", "listed", "remedy"),
    [
        ("classify monrach", FAMILIES, "monarch, or carrier sets such as"),
        ("classify zzz", FAMILIES, "a family such as btt:r=2, or carrier sets"),
        ("enumerate --family monrach", FAMILIES, "--family monarch\n"),
        ("enumerate --family zzz", FAMILIES, "--family monarch, or another of these names"),
        ("rank monarch --task techer", "the tasks are pixels, teacher, text", "use teacher\n"),
        ("rank monarch --task zzz", "the tasks are pixels, teacher, text", "use one of these"),
        ("rank monarch --engine lokal", "the engines are local, ray, slurm", "use local\n"),
        ("rank monarch --engine zzz", "the engines are local, ray, slurm", "use one of these"),
        ("search --sampler randon", "one of tpe, cma-es, random", "--sampler random\n"),
        ("search --sampler zzz", "one of tpe, cma-es, random", "--sampler tpe, cma-es or random\n"),
        ("params widem", "", "use 'wide-m'; all are s, m"),
        ("params zzz", "", "all are s, m, l"),
        ("params s --gpu h10", "", "use 'h100'; all are a100"),
        ("params s --gpu zzz", "", "all are a100"),
        ("params s --set widht=3", "unknown key 'widht'", "use width; all are"),
        ("params s --set zzz=3", "unknown key 'zzz'", "use one of: vocabulary"),
        ("clasify monarch", "the commands are enumerate, sample", "einsearch classify\n"),
        ("zzz", "the commands are enumerate, sample", "einsearch --help\n"),
        (
            "classify monarch --d-inn 4",
            "--d-inn: einsearch classify has no such option\n",
            "--d-in, or einsearch classify --help\n",
        ),
        ("rank monarch --optimizer x", "--optimizer: einsearch rank has no such option\n", "einsearch rank --help\n"),
        ("rank demmo", "no spec that comes with einsearch is named 'demmo'", "demo\n"),
        ("rank zzz", FAMILIES, "a family such as btt:r=2"),
        ("train train-struktured", "is named 'train-struktured'", "train-structured\n"),
        ("train zzz", "cannot read zzz", "check the path; the current folder is"),
        ("train demo", "demo is a spec of rank", "einsearch rank demo\n"),
        ("rank paper/ffn", "paper/ffn is a spec of train", "einsearch train paper/ffn\n"),
    ],
)
def test_a_name_is_guessed_only_if_it_is_near(einsearch, words: str, listed: str, remedy: str) -> None:
    found = einsearch(*words.split())
    assert (found.code, found.out) == (2, "")
    assert listed in found.err
    assert f"\n  try: {remedy}" in found.err
