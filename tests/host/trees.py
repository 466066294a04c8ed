"""Trees of /proc and /sys as Linux writes them, cut to the lines that are read and their neighbours."""

from __future__ import annotations

from pathlib import Path

GIB, MIB = 2**30, 2**20

# Of a machine with 64 GiB: `cat /proc/meminfo` on Linux 6.18, sizes changed.
MEMINFO = """\
MemTotal:       67108864 kB
MemFree:         1048576 kB
MemAvailable:   41943040 kB
Buffers:          123456 kB
Cached:         39000000 kB
SwapCached:            0 kB
HugePages_Total:       0
"""
VMSTAT = """\
nr_free_pages 262144
pgpgin 1051236
pgpgout 288820
pswpin 12
pswpout {pages}
pgalloc_dma 512
oom_kill 0
"""
CALM = """\
some avg10=0.00 avg60=0.12 avg300=0.05 total=170381
full avg10=0.00 avg60=0.00 avg300=0.00 total=163211
"""
STALLED = """\
some avg10=31.45 avg60=9.02 avg300=2.11 total=8170381
full avg10=12.06 avg60=3.00 avg300=0.71 total=3163211
"""
# Of a laptop: the package slows down at 95 degrees, is warned at 100 and switched off at 105.
TRIPS = (("passive", 95_000), ("hot", 100_000), ("critical", 105_000))

STATUS = """\
Name:	python3
State:	S (sleeping)
Pid:	4242
VmRSS:	  {rss} kB
RssAnon:	  {anon} kB
RssFile:	   30720 kB
RssShmem:	  {shmem} kB
"""
ROLLUP = """\
55f0c0000000-7ffd7b9e1000 ---p 00000000 00:00 0                          [rollup]
Rss:              {rss} kB
Pss:              {pss} kB
Pss_Anon:         {anon} kB
Pss_File:           4096 kB
Pss_Shmem:             0 kB
Shared_Clean:      26624 kB
Private_Dirty:    {anon} kB
Anonymous:        {anon} kB
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def machine(root: Path, files: dict[str, str] | None = None) -> Path:
    """64 GiB, of which 40 GiB are free, calm; `files` on top."""
    usual = {
        "proc/meminfo": MEMINFO,
        "proc/vmstat": VMSTAT.format(pages=34567),
        "proc/pressure/memory": CALM,
    }
    return write(root, {**usual, **(files or {})})


def zone(number: int, temperature: int | str, trips: tuple[tuple[str, int], ...] = TRIPS) -> dict[str, str]:
    """The files of one thermal zone; degrees times a thousand."""
    folder = f"sys/class/thermal/thermal_zone{number}"
    files = {f"{folder}/type": "x86_pkg_temp\n", f"{folder}/temp": f"{temperature}\n"}
    for i, (kind, at) in enumerate(trips):
        files[f"{folder}/trip_point_{i}_type"] = f"{kind}\n"
        files[f"{folder}/trip_point_{i}_temp"] = f"{at}\n"
    return files
