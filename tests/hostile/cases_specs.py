"""Studies and training runs in YAML, and files of structures: text is read as YAML 1.2, and errors name it."""

from __future__ import annotations

from tests.hostile.case import Case, refused

M = "structures: [monarch]\n"
S = "steps: 3\n"


def study(text: str, *says: str) -> Case:
    """A study that is refused."""
    return refused("rank s.yaml", *says, files={"s.yaml": text})


def run(text: str, *says: str) -> Case:
    """A training run that is refused."""
    return refused("train t.yaml", *says, files={"t.yaml": text})


STUDIES = (
    study(M + "seeds: 12:30", "s.yaml:2: seeds is '12:30': a whole number from 1 to 1,000", "try: seeds: 3"),
    study(M + "seeds: true", "seeds is true: a whole number"),
    study(M + "seeds: no", "seeds is 'no'"),
    study(M + "seeds: null", "seeds is null"),
    study(M + "seeds: 1.5", "seeds is 1.5"),
    study(M + "seeds: 1_0", "seeds is '1_0'"),
    study(M + "seeds: '3'", "seeds is '3'"),
    study(M + "seeds: [3]", "seeds is [3]"),
    study(M + "seeds: 1e400", "seeds is 1e400"),
    study(M + "widths: [yes]", "an entry of widths is 'yes'"),
    study(M + "widths: [064, 64]", "64 is listed twice"),
    study(M + "widths: []", "at least one entry is needed"),
    study(M + "widths: 64", "widths is 64: a list is needed"),
    study(M + "budget_flops: -1", "budget_flops is -1"),
    study(M + "budget_flops: .nan", "budget_flops is .nan"),
    study(M + "budget_flops: 1e30", "budget_flops is 1e30"),
    study(M + "widht: [64]", "s.yaml:2: unknown key 'widht'", "use widths"),
    study(M + "halving: {eta: 3}", "unknown key 'halving.eta'"),
    study(M + "optimizer: {beta1: 2}", "optimizer.beta1 is 2: a number from 0 and below 1"),
    study(M + "task: 3", "task is 3: text is needed"),
    study(M + "task_settings: {depth: deep}", "s.yaml:2: task_settings.depth is 'deep'"),
    study(M + "task_settings: {dpth: 3}", "unknown key 'task_settings.dpth'"),
    study(
        M + "task: text\ntask_settings: {path: books}", "s.yaml:3: path is a key of an earlier", "data: {text: books}"
    ),
    study(M + "task: text\ntask_settings: {data: books}", "s.yaml:3: task_settings.data is 'books'", "{"),
    study(M + "task: text\ntask_settings: {data: {text: 3}}", "task_settings.data.text is 3", "a path is needed"),
    study(M + "task: text\ntask_settings: {data: {txt: a}}", "unknown key 'task_settings.data.txt'", "use text"),
    study(M + "task: text\ntask_settings: {data: {tokenizer: 'bpe:12'}}", "from 256 to 65,536"),
    study(M + "task: text\ntask_settings: {data: {tokenizer: morse}}", "no tokenizer 'morse'"),
    study(M + "task: text\ntask_settings: {data: {text: a, tokens: b}}", "the tokens come from one place"),
    study(M + "task: text\ntask_settings: {context: 0}", "task_settings.context is 0"),
    study(M + "name: ../../etc", "name is '../../etc': letters, digits"),
    study("structures: monarch", "structures is 'monarch': a list is needed", "structures: [monarch"),
    study("structures: [monrach]", "s.yaml:1", "'monrach'"),
    study("structures: [12]", "s.yaml:1", "a θ vector has seven"),
    study("space: {grid: 2, min_psi: x}", "space.min_psi is 'x'"),
    study("space: {grid: 2, experts: 4}", "experts and top are given both or neither"),
    study("3", "a study is a mapping of keys"),
    study("", "is empty"),
    study("a: [", "not valid YAML"),
    study("!!python/object/apply:os.system ['true']", "the tag"),
    study("a: !!bool maybe", "'maybe' is not of the type bool"),
    study("a: 1\na: 2", "key 'a' occurs twice"),
)
RUNS = (
    run(S + "batch: true", "t.yaml:2: batch is true: a whole number"),
    run(S + "seed: -1", "seed is -1"),
    run("steps: 12:30", "steps is '12:30'"),
    run("steps: 0", "steps is 0: a whole number from 1 to 10,000,000"),
    run("steps: 3\ntokens: 3", "either steps or tokens"),
    run("tokens: .inf", "tokens is .inf"),
    run(S + "model: {width: true, layers: 1, heads: 1}", "model.width is true"),
    run(S + "model: {width: 100, layers: 1, heads: 3}", "t.yaml:2: 3 heads in a width of 100"),
    run(S + "model: {depth: 3}", "unknown key 'model.depth'"),
    run(S + "model: [1]", "model is [1]: a mapping"),
    run(S + "compile: 1", "compile is 1: true or false"),
    run(S + "precision: fp8", "precision is 'fp8': one of float32, bfloat16"),
    run(S + "optimizer: {learning_rate: 0}", "optimizer.learning_rate is 0"),
    run(S + "schedule: {warmup: 1}", "schedule.warmup is 1: a number from 0 and below 1"),
    run(S + "data: {text: 3}", "data.text is 3: a path is needed"),
    run(S + "data: {text: a, tokens: b}", "come from one place"),
    run(S + "accumulation: 3", "does not divide into 3 parts"),
    run(S + "guidance: {ratio: 0}", "guidance.ratio is 0"),
    run(S + "runs: 3", "runs is a list"),
    refused("train t.yaml --set steps=0", "--set: steps is 0", "--set steps=1000", files={"t.yaml": S}),
    refused(
        "train t.yaml --set model.width=17",
        "--set: 12 heads in a width of 17",
        files={"t.yaml": S + "model: {preset: s}"},
    ),
    refused("train t.yaml --set optimizer.speed=1", "unknown key 'optimizer.speed'", files={"t.yaml": S}),
)
FILES = (
    refused("classify a.yaml", "'1e-9'", files={"a.yaml": "{XA: 1e-9, XB: rest, YA: 1}"}),
    refused("classify a.yaml", "'true'", files={"a.yaml": "{XA: true, YA: 1}"}),
    refused("classify a.json", "index XA is true", files={"a.json": '{"indices": {"XA": true, "YA": 1}}'}),
    refused("classify a.json", "occurs twice", files={"a.json": '{"indices": {"XA": 1, "XA": 1}}'}),
    refused("classify a.csv", "no column 'structure'", files={"a.csv": "name\nx\n"}),
)
CASES: tuple[Case, ...] = (*STUDIES, *RUNS, *FILES)
