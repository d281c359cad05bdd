"""The config file: the annotated example, and errors in one line that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from greenagent.core.errors import InputError
from greenagent.serve.config import ServeConfig, TierConfig, load_config
from greenagent.serve.replicas.start import replica_configs
from greenagent.serve.start import named_tiers

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "greenagent.yaml"


def written(path: Path, **changes: Any) -> Path:
    data = {"tiers": [{"model": str(ROOT / "models" / "clinc150-tiny")}]} | changes
    path.write_text(yaml.safe_dump(data))
    return path


def test_the_annotated_example_has_every_key_and_can_be_served() -> None:
    data = yaml.safe_load(EXAMPLE.read_text())
    assert set(data) == set(ServeConfig.model_fields)
    assert set(data["tiers"][0]) == set(TierConfig.model_fields)
    tiers = named_tiers(load_config(EXAMPLE))
    assert [(tier.name, tier.interface.kind) for tier in tiers] == [("micro", "label"), ("tiny", "label")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prot": 80}, "unknown key 'prot'; did you mean 'port'"),
        ({"tiers": [{"model": "a", "treshold": 1}]}, "unknown key 'tiers.0.treshold'; did you mean 'threshold'"),
        ({"tiers": []}, "tiers: List should have at least 1 item"),
        (
            {"tiers": [{"model": "a"}, {"model": "b"}]},
            "a stands before other tiers: give it a threshold",
        ),
        ({"tiers": [{"model": "a", "threshold": 0.5}]}, "the last tier answers whatever is passed on to it"),
        (
            {"tiers": [{"model": "a", "threshold": 2}, {"model": "b"}]},
            "tiers.0.threshold: Input should be less than or equal to 1",
        ),
        ({"port": 70000}, "port: Input should be less than or equal to 65535, got 70000"),
        ({"durability": "disk"}, "durability: Input should be 'process' or 'power', got 'disk'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        load_config(written(tmp_path / "greenagent.yaml", **changes))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_config_is_said(tmp_path: Path) -> None:
    path = tmp_path / "greenagent.yaml"
    with pytest.raises(InputError, match="no config"):
        load_config(path)
    for text, said in (("- 1", "a config is a mapping with tiers; got list"), ("a: [", "not readable as YAML")):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            load_config(path)


def test_models_beside_the_config_are_found(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    found = load_config(written(tmp_path / "c.yaml", tiers=[{"model": "small", "threshold": 0.5}, {"model": "embedded"}]))
    assert [tier.model for tier in found.tiers] == [str(tmp_path / "small"), "embedded"]


def test_two_tiers_of_one_name_are_refused(tmp_path: Path) -> None:
    tiny = str(ROOT / "models" / "clinc150-tiny")
    config = load_config(written(tmp_path / "c.yaml", tiers=[{"model": tiny, "threshold": 0.5}, {"model": tiny}]))
    with pytest.raises(InputError, match="two tiers are called 'clinc150-tiny': give one of them another name"):
        named_tiers(config)


async def test_two_models_are_served_as_one(tmp_path: Path, running: Any) -> None:
    config = load_config(EXAMPLE).model_copy(update={"port": 0, "ledger": str(tmp_path / "ledger.db")})
    micro = config.tiers[0]
    for threshold, tier in ((0.0, "micro"), (1.0, "tiny")):
        tiers = [micro.model_copy(update={"threshold": threshold}), config.tiers[1]]
        async with running(config.model_copy(update={"tiers": tiers})) as ready:
            assert ready.model == "clinc150"
            async with httpx.AsyncClient(base_url=ready.url, timeout=30) as http:
                tools = (await http.get("/v1/models")).json()["data"][0]["greenagent"]["tools"]
                body = {"model": "clinc150", "messages": [{"role": "user", "content": "i lost my card"}], "tools": tools}
                answer = (await http.post("/v1/chat/completions", json=body)).json()
        assert answer["greenagent"]["tier"] == tier
        assert answer["usage"]["energy_j"] > 0
        assert answer["choices"][0]["message"]["tool_calls"]


def test_replicas_have_what_the_tier_has_but_for_what_they_say(tmp_path: Path) -> None:
    tier = {"model": "far", "max_batch": 4, "options": {"model": "m"}}
    replicas = [{"model": "http://127.0.0.1:1"}, {"model": "http://127.0.0.1:2", "max_batch": 8, "options": {"model": "n"}}]
    config = load_config(written(tmp_path / "c.yaml", tiers=[{**tier, "replicas": replicas}]))
    [named] = named_tiers(config)
    found = replica_configs(named.config)
    assert [(r.model, r.max_batch, r.options["model"]) for r in found] == [
        ("http://127.0.0.1:1", 4, "m"),
        ("http://127.0.0.1:2", 8, "n"),
    ]
    mixed = load_config(written(tmp_path / "c.yaml", tiers=[{**tier, "replicas": [*replicas, {"device": "GPU"}]}]))
    with pytest.raises(InputError, match="either all servers or all engines of this host"):
        named_tiers(mixed)
    with pytest.raises(InputError, match=r"unknown key 'tiers\.0\.replicas\.0\.modle'; did you mean 'model'"):
        load_config(written(tmp_path / "c.yaml", tiers=[{**tier, "replicas": [{"modle": "x"}]}]))
