"""What is freed is taken again, whatever its size, and is given back when asked."""

from __future__ import annotations

import subprocess
import sys

import mlx.core as mx
import pytest

from appliance.engine import freed

pytestmark = pytest.mark.skipif(freed._library is None, reason="MLX's own cache of buffers is in use here")

CHILD = """
import resource, sys
from pathlib import Path
import mlx.core as mx
from appliance.engine import freed

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work(sizes):
    for size in sizes:
        mx.eval(mx.ones((size,)) + 1)

SIZES = [2**20 + 4096 * 7 * n for n in range(60)]  # 4 to 11 MB, none like another
if sys.argv[1] == "keep":
    freed.keep(2**30)
before = held()
work(reversed(SIZES))
first = faults()
work(SIZES)
again, kept = faults() - first, held() - before
freed.release()
print(again, kept, held() - before)
"""


def run(how: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", CHILD, how], check=True, capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


def test_it_is_taken_again_and_given_back() -> None:
    again, kept, after = run("keep")
    assert again < 11_000, "pages that came fresh: of 110,000, and the system may have taken some back"
    assert kept < 64 * 2**20
    assert after < kept
    assert after < 8 * 2**20


def test_mlx_keeps_nothing_beside_it() -> None:
    freed.keep(2**30)
    mx.eval(mx.ones((2**20,)) + 1)
    assert mx.get_cache_memory() == 0
    freed.keep(0)
    freed.release()
