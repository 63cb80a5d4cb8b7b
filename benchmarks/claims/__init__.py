"""The claims of the two papers, measured again: every claim with an interval and a verdict.

    python -m benchmarks.claims

reads the studies in examples/ and the timings in benchmarks/results/, and writes benchmarks/results/claims.json and
the page on claims. Nothing is trained. A study that has finished is added by copying its results.json to
examples/reproduction/NAME (`--collect` does it, from unfinished folders too), and running this again.
"""
