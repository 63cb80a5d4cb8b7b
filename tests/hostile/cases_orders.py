"""Orders of features: in carrier sets, and as the letters of an equation."""

from __future__ import annotations

from tests.hostile.case import refused

_SETS = "XA^1/2 XB^1/2 YA^1/2 YB^1/2"

CASES = (
    refused(f"classify '{_SETS} order:'", "is not an order of features", "XA,XB/YA,YB"),
    refused(f"classify '{_SETS} order:XA'", "is not an order of features"),
    refused(f"classify '{_SETS} order:XA/YA,YB'", "its input indices are XA, XB", "named once"),
    refused(f"classify '{_SETS} order:XA,XB,XA/YA,YB'", "named once"),
    refused(f"classify '{_SETS} order:XA,XB/YA,YC'", "its output indices are YA, YB"),
    refused(f"classify '{_SETS} order:x/y'", "is not an order of features"),
    refused("classify 'gbn,gnr,gro->bro; g=4,n=2,r=2,o=4'", "must stand in front"),
    refused("classify 'zwab,ac,bd->wzcd; a=2,b=4,c=2,d=4'", "in the same order in both"),
)
