"""Makes src/greenagent/measure/data/carbon_intensity.csv: yearly gCO2e per kWh by country.

    python benchmarks/make_carbon_table.py GLOBAL_ENERGY_MIX.json

GLOBAL_ENERGY_MIX.json is ``codecarbon/data/private_infra/global_energy_mix.json`` of the package codecarbon (3.3.2 when the
shipped table was made), which holds Our World in Data's figures (from Ember and the Energy Institute) by ISO alpha-3 code.
Needs ``pycountry`` for the alpha-2 codes. Only the year and the intensity are kept; a country whose figure is 0 (unknown) is
left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pycountry

OUT = Path(__file__).parent.parent / "src/greenagent/measure/data/carbon_intensity.csv"
HEADER = """\
# Yearly average carbon intensity of electricity generation, life cycle, gCO2e/kWh, by country (see README.md here).
# Made by benchmarks/make_carbon_table.py from Our World in Data, "Carbon intensity of electricity generation"
# (Ember, Energy Institute; CC BY 4.0), as shipped by codecarbon 3.3.2. WORLD is the mean of these rows weighted by generation.
zone,alpha3,name,year,g_per_kwh
"""


def main(path: Path) -> None:
    rows = json.loads(path.read_text())
    lines = []
    generation = emissions = 0.0
    years = []
    for alpha3, row in rows.items():
        intensity, twh = row["carbon_intensity"], row["total_TWh"]
        if not intensity:
            print(f"left out, no figure: {row['country_name']}", file=sys.stderr)
            continue
        country = pycountry.countries.get(alpha_3=alpha3)
        lines.append(f"{country.alpha_2},{alpha3},{row['country_name']},{row['year']},{intensity:g}")
        generation += twh
        emissions += twh * intensity
        years += [row["year"]] * round(twh)
    usual = max(set(years), key=years.count)
    print(f"WORLD: {years.count(usual) / len(years):.0%} of generation is of {usual}", file=sys.stderr)
    lines.append(f"WORLD,,World,{usual},{emissions / generation:.1f}")
    OUT.write_text(HEADER + "\n".join(sorted(lines)) + "\n", encoding="utf-8")
    print(f"{OUT}: {len(lines)} zones", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_carbon_table.py GLOBAL_ENERGY_MIX.json")
    main(Path(sys.argv[1]))
