"""A sum is known no better than its weakest part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenagent.core.provenance import Kind, Provenance, combine

kinds: list[Kind] = ["measured", "estimated", "assumed"]
provenances = st.builds(
    Provenance,
    kind=st.sampled_from(kinds),
    source=st.sampled_from(["rapl", "table", "model"]),
    relative_uncertainty=st.none() | st.floats(0, 2),
)


@given(st.lists(provenances, min_size=1, max_size=5))
def test_the_weakest_kind_and_the_largest_uncertainty_win(parts: list[Provenance]) -> None:
    total = combine(parts)
    assert kinds.index(total.kind) == max(kinds.index(p.kind) for p in parts)
    assert set(total.source.split("; ")) == {p.source for p in parts}
    spreads = [p.relative_uncertainty for p in parts]
    expected = None if None in spreads else max(s for s in spreads if s is not None)
    assert total.relative_uncertainty == expected


def test_weights_give_the_uncertainty_of_a_fully_correlated_sum() -> None:
    exact = Provenance(kind="measured", source="rapl", relative_uncertainty=0.0)
    rough = Provenance(kind="estimated", source="model", relative_uncertainty=0.4)
    total = combine([exact, rough], weights=[30.0, 10.0])
    assert (total.kind, total.source) == ("estimated", "rapl; model")
    assert total.relative_uncertainty == pytest.approx(0.1)
    assert combine([exact, rough], weights=[0.0, 0.0]).relative_uncertainty == 0.4


def test_nothing_has_no_provenance() -> None:
    with pytest.raises(ValueError, match="nothing"):
        combine([])


def test_it_reads_as_a_remark_beside_a_figure() -> None:
    assert str(Provenance(kind="estimated", source="CPU model", relative_uncertainty=0.25)) == "estimated ±25% (CPU model)"
    assert str(Provenance(kind="measured", source="RAPL")) == "measured (RAPL)"
