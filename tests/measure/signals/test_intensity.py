from __future__ import annotations

import pytest

from greenagent.core.errors import InputError
from greenagent.measure.signals.intensity import FACTOR_VERSION, lookup, zones


@pytest.mark.parametrize("zone", ["DE", "de", "DEU", "Germany", " germany "])
def test_codes_and_names_mean_the_same(zone: str) -> None:
    found = lookup(zone)
    assert found is not None
    assert (found.zone, found.year, found.value_g_per_kwh) == ("DE", 2023, 380.95)
    assert found.factor_version == FACTOR_VERSION
    assert found.provenance.kind == "assumed"
    assert "Germany 2023" in found.provenance.source


@pytest.mark.parametrize(("zone", "code"), [("UK", "GB"), ("WORLD", "WORLD"), ("world", "WORLD"), ("NA", "NA"), ("USA", "US")])
def test_aliases(zone: str, code: str) -> None:
    found = lookup(zone)
    assert found is not None
    assert found.zone == code


def test_no_zone_is_no_intensity() -> None:
    assert lookup(None) is None


def test_the_environment_gives_the_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENAGENT_ZONE", "FR")
    found = lookup(None)
    assert found is not None
    assert found.zone == "FR"
    given = lookup("DE")
    assert given is not None
    assert given.zone == "DE"
    monkeypatch.setenv("GREENAGENT_ZONE", "")
    assert lookup(None) is None


def test_an_unknown_zone_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"unknown zone 'Germny'; did you mean DE \(Germany\)"):
        lookup("Germny")
    with pytest.raises(InputError, match="give an ISO country code"):
        lookup("???")
    with pytest.raises(InputError, match="unknown zone ''"):
        lookup("")
    monkeypatch.setenv("GREENAGENT_ZONE", "Frnace")
    with pytest.raises(InputError, match=r"unknown zone in GREENAGENT_ZONE 'Frnace'; did you mean FR"):
        lookup(None)


def test_the_table_is_sane() -> None:
    table = zones()
    assert len(table) > 200
    for row in table:
        assert 10 < row.value_g_per_kwh < 1500, row
        assert 2000 < row.year < 2030, row
    world = lookup("WORLD")
    assert world is not None
    assert 450 < world.value_g_per_kwh < 510


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("Ivory Coast", "did you mean CI (Cote d'Ivoire)?"),
        ("Côte d’Ivoire", "did you mean CI (Cote d'Ivoire)?"),
        ("Deutschland", "did you mean DE (Germany)?"),
        ("Deutschlnd", "did you mean DE (Germany)?"),
        ("DE-LU", "did you mean DE (Germany)?"),
        ("US-CAL-CISO", "did you mean US (United States)?"),
        ("Guinea-Bisau", "did you mean GW (Guinea-Bissau)"),
        ("Holland", "did you mean NL (Netherlands)?"),
        ("XYZ", "the nearest are "),
        ("???", "give an ISO country code such as DE, FR or US, or WORLD"),
    ],
)
def test_whoever_asks_for_an_unknown_zone_is_told_a_known_one(asked: str, meant: str) -> None:
    with pytest.raises(InputError) as caught:
        lookup(asked)
    assert meant in str(caught.value)
