"""Numbers of options: whole ones, real ones, bounds, and words after --set."""

from __future__ import annotations

from tests.hostile.case import Case, accepted, refused

CLASSIFY = (
    accepted("classify monarch --tokens 1e3 --format csv", "monarch"),
    accepted("classify monarch --d-in 1e3 --format csv", "monarch"),
    *(
        refused(("classify", "monarch", "--d-in", text), f"--d-in {text}: a whole number from 1 to 2^48", "--d-in 1024")
        for text in ("0", "-5", "1.5", "1e400", "nan", "0x10", "1_000", "281474976710657", "9" * 40)
    ),
    refused("classify monarch --d-in ''", "--d-in '': a whole number"),
    refused("classify monarch --d-in ٣", "--d-in '٣': a whole number"),
    *(
        refused(("classify", "monarch", "--tokens", text), "a whole number from 1 to 10^15 is needed", "--tokens 1024")
        for text in ("0", "1.5", "nan", "1e400", "1" + "0" * 400)
    ),
    refused("classify monarch --seed -1", "--seed -1: a whole number from 0 to 2^63 - 1 is needed"),
    refused("classify monarch --trees nan", "--trees 'nan'"),
    refused(
        "classify monarch --device tpu",
        "--device tpu: one of cpu, cuda is needed",
        "--device cpu",
        never=("Value error",),
    ),
)
ENUMERATE = (
    accepted("enumerate --grid 1e1 --limit 1e0 --format csv", "monarch"),
    *(
        refused(("enumerate", "--grid", text), f"--grid {text}: a whole number from 1 to 1,000", "--grid 4")
        for text in ("0", "1001", "1.5", "nan", "-1")
    ),
    refused("enumerate --factors 6", "--factors 6: whole spaces have 1 to 5 factors"),
    refused("enumerate --factors 1e400", "--factors 1e400: a whole number"),
    refused("enumerate --limit 0", "--limit 0: a whole number"),
    refused("enumerate --min-psi 2", "ψ is at most 1"),
    refused("enumerate --max-nu -1", "--max-nu '-1' is not a bound"),
    refused("enumerate --max-omega nan", "--max-omega 'nan' is not a bound"),
    refused("enumerate --max-omega 1/0", "--max-omega '1/0' is not a bound"),
    refused("enumerate --max-omega '<'", "--max-omega '<' is not a bound"),
    accepted("enumerate --grid 3 --max-omega 0.33 --format jsonl", never=('"omega": "1/3"',)),
    refused("enumerate --fix AB=2", "leaves no exponent"),
    refused("enumerate --fix AB=1e-3", "'1e-3'"),
    refused("enumerate --fix 'AB<=1e-3'", "'1e-3' in 'AB<=1e-3' is not a number"),
    refused("enumerate --fix 'AB=1/2..1/4'", "leaves no exponent"),
    refused("enumerate --fix QQ=0", "'QQ'", "not a carrier set"),
    refused("enumerate --experts 1.5 --top 2", "--experts 1.5: a whole number from 1 to 4,096"),
    refused("enumerate --experts 4 --top 5", "top=5 with experts=4"),
    refused("enumerate --experts 4", "--experts without --top"),
    refused("enumerate --family 4096x11008", "'4096x11008'", "families are dense, low-rank"),
    refused("sample --number 1e7", "--number 1e7: a whole number from 1 to 1,000,000"),
    refused("sample --seed 1e30", "--seed 1e30"),
    refused("sample --factors 9", "--factors 9"),
    refused("draw monarch --d-in 1e400", "--d-in 1e400"),
)
PARAMS = (
    refused("params s --tokens nan", "--tokens nan: a number from 1 to 1e+15 is needed"),
    refused("params s --tokens 1e9", "--tokens without --gpu", "add --gpu h100"),
    refused("params s --utilisation 0.5", "--utilisation without --gpu"),
    refused("params s --batch 4", "--batch without --gpu"),
    refused("params s --recompute", "--recompute without --gpu"),
    *(
        refused(("params", "s", "--gpu", "h100", "--tokens", text), f"--tokens {text}: a number from 1 to 1e+15")
        for text in ("nan", "inf", "-1", "0", "1e300", "1_000")
    ),
    *(
        refused(("params", "s", "--gpu", "h100", "--utilisation", text), f"--utilisation {text}: a number above 0")
        for text in ("nan", "0", "1.5", "-1")
    ),
    refused("params s --gpu h100 --gpus 0", "--gpus 0: a whole number from 1"),
    refused("params s --gpu h1000", "'h1000'", "use 'h100'"),
    refused("params s --gpu tpu", "'tpu'"),
    refused("params xll", "'xll'", "use 'xl'"),
    refused("params 4096x11008", "'4096x11008'", "all are s, m, l, xl", never=("use '",)),
    refused("params s --set width=true", "width is true: a whole number is needed", "--set width=768"),
    refused("params s --set width=770", "12 heads in a width of 770"),
    refused("params s --set widht=770", "unknown key 'widht'", "use width"),
    refused("params s --set 'width=[1]'", "width is [1]"),
    refused("params s --set norm=batch", "norm is 'batch': one of layer, rms is needed", "--set norm=layer"),
    refused("params s --set tied=yes", "tied is 'yes': true or false is needed"),
    refused("params s --set tied=1", "tied is 1: true or false is needed"),
    accepted("params s --set width=1e3 --set heads=10", "embedding"),
    accepted("params s --set layers=1e3 --set width=64 --set heads=2", "embedding"),
    refused("params s --set context=1.5", "context is 1.5"),
    refused("params s --set rotary_base=.nan", "rotary_base is .nan: a number above 1 is needed"),
    refused("params s --set structure=12", "structure is 12: text is needed"),
    refused("params s --set width", "it needs a key and a value"),
    refused("params s --set =3", "it needs a key and a value"),
    refused("params s --set 'width=!!python/name:os 3'", "the tag '!!python/name:os'"),
    refused("params s --set layers=1e9", "layers 1,000,000,000: at most 10,000"),
    refused("params s --set layers=0", "layers 0"),
    refused("params s --set vocabulary=1e30", "vocabulary over 10^15: at most 4,294,967,296"),
    refused("params s --set head_size=3", "a head_size of 3"),
    refused("params s --set kv_heads=5", "5 kv_heads for 12 heads"),
    refused("params s --set hidden=1_000", "hidden is '1_000'"),
    refused("params s --set width=12:30", "width is '12:30'"),
    refused("params s --structured none", "--structured none: one of ffn, attn, all is needed", never=("Value error",)),
)
RANK = (
    refused("rank monarch --widths 64,64", "--widths is [64, 64]: 64 is listed twice", "--widths 64"),
    refused("rank monarch --widths 0", "0 is not a whole number from 1 to 1,000,000"),
    refused("rank monarch --widths ''", "an empty entry is not a whole number"),
    refused("rank monarch --widths 64,", "an empty entry is not a whole number"),
    refused("rank monarch --widths 1.5", "1.5 is not a whole number"),
    refused("rank monarch --widths yes", "yes is not a whole number"),
    refused("rank monarch --budget 1e30", "--budget is 1e+30", "at most 1e+24"),
    *(
        refused(("rank", "monarch", "--budget", text), f"--budget {text}: a number above 0")
        for text in ("nan", "0", "-1", "inf", "1_000")
    ),
    *(
        refused(("rank", "monarch", "--seeds", text), f"--seeds {text}: a whole number from 1 to 1,000", "--seeds 3")
        for text in ("0", "2000", "1e400", "12:30", "true")
    ),
    refused("rank monarch --workers 0", "--workers 0"),
    refused("rank grid:x", "grid:x: a whole number from 1 to 24", "grid:2"),
    refused("rank grid:", "grid:'': a whole number from 1 to 24"),
    refused("rank grid:100", "grid:100: a whole number from 1 to 24"),
    refused("rank grid:2 grid:3", "grid:3 is the second grid"),
    refused("rank monarch --task foo", "no task is named 'foo'"),
    refused("rank dense", "0 candidates"),
)
OTHERS = (
    refused("bench monarch --widths 1e400", "1e400 is not a whole number"),
    refused("bench monarch --rounds nan", "--rounds nan"),
    refused("bench monarch --threads 1.5", "--threads 1.5"),
    refused("bench monarch --modes fast", "'fast' is none of"),
    *(
        refused(("generate", "nowhere", "--prompt", "x", *words), f"{words[0]} {words[1]}: a ")
        for words in (
            ("--temperature", "nan"),
            ("--temperature", "-1"),
            ("--top-k", "0"),
            ("--top-p", "0"),
            ("--top-p", "1.5"),
            ("--samples", "1e9"),
            ("--max-tokens", "1.5"),
            ("--seed", "-1"),
        )
    ),
    refused("tokenize nowhere --out x --held-out-fraction nan", "--held-out-fraction nan: a number from 1e-6 to 0.5"),
)
CASES: tuple[Case, ...] = (*CLASSIFY, *ENUMERATE, *PARAMS, *RANK, *OTHERS)
