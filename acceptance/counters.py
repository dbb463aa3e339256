"""How often something was broken, killed or tried at random in this run: counted where it happens, said in the acceptance report."""

from __future__ import annotations

import re
from collections import Counter

TRIED: Counter[str] = Counter()

BROKEN = "calls broken on purpose"
DIED = "points at which the operator's computer died"
POWER = "points at which a server lost its power"
RANDOM = "random cases"


def tried(what: str, times: int = 1) -> None:
    """Count it."""
    TRIED[what] += times


def examples(statistics: str) -> int:
    """The random cases of one test, from the statistics that Hypothesis keeps of it."""
    return sum(int(number) for number in re.findall(r"(\d+) passing", statistics))


def sentence() -> str:
    """``46 calls broken on purpose, 3,100 random cases``."""
    return ", ".join(f"{times:,} {what}" for what, times in sorted(TRIED.items()) if times)
