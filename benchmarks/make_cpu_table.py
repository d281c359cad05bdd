"""Makes src/greenagent/measure/data/cpu_power.csv: watts per hardware thread by CPU model and generation.

    python benchmarks/make_cpu_table.py SPECPOWER.csv

SPECPOWER.csv holds SPECpower_ssj2008 results as collected by Cloud Carbon Footprint (ccf-coefficients, Apache-2.0),
with the columns published, cpu, chips, cores, hardware_threads, memory_gb, active_idle_w, full_load_w.
Only medians and spreads are kept.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median, quantiles

from greenagent.measure.cpu_power import normalise

OUT = Path(__file__).parent.parent / "src/greenagent/measure/data/cpu_power.csv"
COLUMNS = "level,name,servers,idle_w_per_thread,full_w_per_thread,idle_spread,full_spread,memory_gb_per_thread,cpuids"
HEADER = """\
# Whole-server watts per hardware thread, medians over the servers of a CPU, with their relative spread (see README.md here).
# Made by benchmarks/make_cpu_table.py from SPECpower_ssj2008 results (spec.org/power_ssj2008) as collected by
# Cloud Carbon Footprint, ccf-coefficients (Apache-2.0), edition of March 2026.
"""
MIN_SERVERS = 3
SMALL_CORES = 16  # a generation of big servers is represented by its CPUs with more cores: only those are hidden by hypervisors

# generation, names (normalised), what CPUID says: vendor/family[/model[/first-last stepping]], pool whose spread is the least
CLASSES = [
    ("AMD Opteron", r"opteron", "AuthenticAMD/15 AuthenticAMD/16 AuthenticAMD/21", ""),
    ("AMD EPYC 1st Gen (Naples)", r"epyc 7\d\d1", "AuthenticAMD/23/1 AuthenticAMD/23/2", "epyc"),
    ("AMD EPYC 2nd Gen (Rome)", r"epyc 7\d\d2", "AuthenticAMD/23/49", "epyc"),
    ("AMD EPYC 3rd Gen (Milan)", r"epyc 7\d\d3", "AuthenticAMD/25/0 AuthenticAMD/25/1", "epyc"),
    ("AMD EPYC 4th Gen (Genoa)", r"epyc 9[0-6]\d4", "AuthenticAMD/25/16 AuthenticAMD/25/17", "epyc 4"),
    ("AMD EPYC 4th Gen (Bergamo and Siena)", r"epyc (97|8\d)\d4", "AuthenticAMD/25/160", "epyc 4"),
    ("AMD EPYC 4004 (8 to 16 cores)", r"epyc 4\d\d4", "AuthenticAMD/25/97", ""),
    ("AMD EPYC 5th Gen (Turin)", r"epyc 9[67]55", "AuthenticAMD/26/0 AuthenticAMD/26/1 AuthenticAMD/26/2", "epyc 5"),
    ("AMD EPYC 5th Gen (Turin Dense)", r"epyc 9(8|9|64|74)\d?5", "AuthenticAMD/26/16 AuthenticAMD/26/17", "epyc 5"),
    ("AMD EPYC 4005 (6 to 16 cores)", r"epyc 4\d\d5", "AuthenticAMD/26/68", ""),
    (
        "Intel Core 2 and its Xeons",
        r"xeon (30|5160|e31|[elx]5[34]|x3[23]|[ex]?[l]?33|l5[34]|l33|70|71|e73|l73|x5272)",
        "6/15 6/22 6/23 6/29",
        "",
    ),
    ("Intel Nehalem", r"xeon ([elwx]55|x34|x75)", "6/26 6/30 6/46", ""),
    ("Intel Westmere", r"xeon ([elx]?56\d\d|e7-\d{4}$)|core i3-540|core i7 610e", "6/37 6/44 6/47", ""),
    ("Intel Sandy Bridge E3", r"xeon e3-\d{4}l?$", "6/42", ""),
    ("Intel Sandy Bridge E5", r"xeon e5-\d{4}l?$", "6/45", ""),
    ("Intel Ivy Bridge E3", r"xeon e3-\d{4}l? v2", "6/58", ""),
    ("Intel Ivy Bridge E5", r"xeon e5-\d{4}l? v2", "6/62", ""),
    ("Intel Haswell E3 and Core", r"xeon e3-\d{4}l? v3|core i5-4570", "6/60 6/69 6/70", ""),
    ("Intel Haswell E5", r"xeon e5-\d{4}l? v3", "6/63", ""),
    ("Intel Broadwell E5", r"xeon e5-\d{4}l? v4", "6/79 6/86", ""),
    ("Intel Skylake E3", r"xeon e3-\d{4}l? v5", "6/78 6/94", ""),
    ("Intel Kaby and Coffee Lake", r"xeon (e3-\d{4}l? v6|e-2[12])", "6/142 6/158", ""),
    ("Intel Skylake-SP", r"xeon [568]1\d\d", "6/85/0-4", "scalable 1"),
    ("Intel Cascade Lake", r"xeon [4568]2\d\d", "6/85/5-7", "scalable 1"),
    ("Intel Cooper Lake", r"xeon 83\d\dhl?", "6/85/10-11", "scalable 1"),
    ("Intel Ice Lake-SP", r"xeon ([568]3\d\d(?!h)\w?|d-27)", "6/106 6/108", "scalable 3"),
    ("Intel Rocket Lake E", r"xeon e-23", "6/167", ""),
    ("Intel Raptor Lake E", r"xeon (e-24|63\d\dp)", "6/151 6/183 6/191", ""),
    ("Intel Sapphire Rapids", r"xeon [4568]4\d\d", "6/143", "scalable 4"),
    ("Intel Emerald Rapids", r"xeon [4568]5\d\d", "6/207", "scalable 4"),
    ("Intel Granite Rapids", r"xeon 6[79]\d\dp", "6/173 6/174", "xeon 6"),
    ("Intel Sierra Forest", r"xeon 67\d\de", "6/175", "xeon 6"),
    ("Intel Arrow Lake-H", r"core ultra \d 2\d\dh", "6/181 6/197 6/198", ""),
    ("Arm Neoverse N1 (Altra)", r"altra", "ARM/0x41/0xd0c", ""),
    ("Arm Neoverse V2 (Grace)", r"grace", "ARM/0x41/0xd4f", ""),
]


def spread(values: list[float]) -> float:
    """Half the distance between the 16th and the 84th percentile, over the median: one standard deviation, deaf to outliers."""
    if len(values) < 2:
        return 0.0
    cuts = quantiles(values, n=25, method="inclusive")
    return (cuts[20] - cuts[3]) / 2 / median(values)


class Pool:
    """Servers of one CPU, generation or kin."""

    def __init__(self) -> None:
        self.idle: list[float] = []
        self.full: list[float] = []
        self.memory: list[float] = []

    def add(self, row: dict[str, str]) -> None:
        threads = int(row["hardware_threads"])
        self.idle.append(float(row["active_idle_w"]) / threads)
        self.full.append(float(row["full_load_w"]) / threads)
        if float(row["memory_gb"]) > 0:
            self.memory.append(float(row["memory_gb"]) / threads)

    def line(self, level: str, name: str, least: list[Pool], cpuids: str = "", widen: float = 1.0) -> str:
        """A line of the table; its spread is never less than that of the pools in ``least``,
        and ``widen`` times that where the CPU is known to be none of the pool's."""
        idle_spread, full_spread = spread(self.idle), spread(self.full)
        for pool in least:
            idle_spread, full_spread = max(idle_spread, spread(pool.idle)), max(full_spread, spread(pool.full))
        memory = median(self.memory) if self.memory else 0.0
        spreads = f"{widen * idle_spread:.3f},{widen * full_spread:.3f}"
        figures = f"{median(self.idle):.4g},{median(self.full):.4g},{spreads},{memory:.3g}"
        return f"{level},{name},{len(self.idle)},{figures},{cpuids}"


def read(path: Path) -> dict[str, list[dict[str, str]]]:
    """Servers by normalised CPU name, without those whose thread count contradicts the CPU's (typing errors in the results)."""
    by_name: dict[str, list[dict[str, str]]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            name = normalise(row["cpu"])
            if re.search(r"\d|grace", name):
                by_name[name].append(row)
    for name, rows in by_name.items():
        per_chip = [int(r["hardware_threads"]) / int(r["chips"]) for r in rows]
        usual = Counter(per_chip).most_common(1)[0][0]
        by_name[name] = [r for r, threads in zip(rows, per_chip, strict=True) if threads == usual and threads > 1]
    return {name: rows for name, rows in by_name.items() if rows}


def cores_per_chip(row: dict[str, str]) -> float:
    return int(row["cores"]) / int(row["chips"])


def class_of(name: str) -> int | None:
    """The index of the generation a CPU belongs to."""
    return next((i for i, (_, pattern, _, _) in enumerate(CLASSES) if re.search(pattern, name)), None)


def main(path: Path) -> None:
    models: dict[str, Pool] = defaultdict(Pool)
    classes: dict[int, Pool] = defaultdict(Pool)
    kin: dict[str, Pool] = defaultdict(Pool)
    generic = Pool()
    for name, rows in sorted(read(path).items()):
        index = class_of(name)
        if index is None:
            print(f"no generation: {name} ({len(rows)})", file=sys.stderr)
        for row in rows:
            models[name].add(row)
            if index is not None and (CLASSES[index][3] == "" or cores_per_chip(row) > SMALL_CORES):
                classes[index].add(row)
                kin[CLASSES[index][3]].add(row)
            if int(row["published"][-4:]) >= 2017:
                generic.add(row)
    lines = []
    for name, pool in sorted(models.items()):
        index = class_of(name)
        few = len(pool.idle) < MIN_SERVERS
        lines.append(pool.line("model", name, [classes.get(index, generic) if index is not None else generic] if few else []))
    for index, pool in sorted(classes.items()):
        label, _, cpuids, kinship = CLASSES[index]
        full_ids = " ".join(c if c[0] == "A" else f"GenuineIntel/{c}" for c in cpuids.split())
        least = [kin[kinship]] if kinship else [generic] if len(pool.idle) < MIN_SERVERS else []
        lines.append(pool.line("class", label, least, full_ids))
    lines.append(generic.line("generic", "servers since 2017", [], widen=2.0))
    OUT.write_text(HEADER + COLUMNS + "\n" + "\n".join(lines) + "\n")
    print(f"{OUT}: {len(models)} models, {len(classes)} generations", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_cpu_table.py SPECPOWER.csv")
    main(Path(sys.argv[1]))
