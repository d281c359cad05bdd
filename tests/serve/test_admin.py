from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.ledger import Keys, Ledger, open_ledger
from greenagent.serve.keys import ADMIN_VARIABLE, ApiKeys, load_admin_key

ADMIN = {"authorization": "Bearer the-admin-secret"}
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "ledger.db") as opened:
        yield opened


async def test_without_an_admin_key_there_is_no_admin_surface(serve: Any, ledger: Ledger) -> None:
    served = await serve(ledger=ledger, guarded={})
    async with served.http() as http:
        for method, url in (("GET", "/admin/keys"), ("POST", "/admin/keys"), ("DELETE", "/admin/keys/ga-1")):
            assert (await http.request(method, url, headers=ADMIN)).status_code == 404


async def test_keys_are_made_used_looked_at_and_revoked(serve: Any, ledger: Ledger) -> None:
    served = await serve("one two", ledger=ledger, guarded={}, admin_key=ApiKeys(["the-admin-secret"]))
    async with served.http() as http:
        wanted = {"name": "ci", "limits": ["requests=2/day"], "expires_at": "2999-01-01T00:00:00Z"}
        made = (await http.post("/admin/keys", json=wanted, headers=ADMIN)).json()
        key, key_id = made.pop("key"), made["id"]
        assert key.startswith(key_id)
        own = {"authorization": f"Bearer {key}"}
        listed = await http.get("/admin/keys", headers=ADMIN)
        assert listed.json()["data"] == [made]
        assert key not in listed.text
        assert Keys(ledger).all()[0].sha256 not in listed.text
        for wrong in ({}, own, {"authorization": "Bearer the-admin-secre"}):
            assert (await http.get("/admin/keys", headers=wrong)).status_code == 401
            assert (await http.post("/admin/keys", json=wanted, headers=wrong)).status_code == 401
        assert (await http.post("/v1/chat/completions", json=BODY, headers=ADMIN)).status_code == 401
        answers = [await http.post("/v1/chat/completions", json=BODY, headers=own) for _ in range(3)]
        assert [a.status_code for a in answers] == [200, 200, 429]
        used = (await http.get(f"/admin/keys/{key_id}/usage", headers=ADMIN)).json()
        assert (used["requests"], used["prompt_tokens"], used["generated_tokens"]) == (2, 6, 4)
        assert used["energy_j"] == pytest.approx(sum(a.json()["usage"]["energy_j"] for a in answers[:2]))
        assert [(one["limit"], one["used"]) for one in used["limits"]] == [("requests=2/day", 2)]
        later = (await http.get("/admin/keys/ci/usage?since=2999-01-01", headers=ADMIN)).json()
        assert (later["requests"], later["energy_j"]) == (0, None)
        changes = {"limits": ["requests=3/day", "tokens=9000"], "remove": ["joules/day"]}
        changed = (await http.put(f"/admin/keys/{key_id}/limits", json=changes, headers=ADMIN)).json()
        assert changed["limits"] == ["requests=3/day", "tokens=9000/ever"]
        assert (await http.post("/v1/chat/completions", json=BODY, headers=own)).status_code == 200
        revoked = (await http.delete(f"/admin/keys/{key_id}", headers=ADMIN)).json()
        assert revoked["revoked_at"] is not None
        assert (await http.post("/v1/chat/completions", json=BODY, headers=own)).status_code == 401


@pytest.mark.parametrize(
    ("method", "url", "content", "status", "said"),
    [
        ("POST", "/admin/keys", "{}", 400, "name: Field required"),
        ("POST", "/admin/keys", "nonsense", 400, "the body is not JSON"),
        ("POST", "/admin/keys", '{"name": "a", "limit": []}', 400, "limit: Extra inputs"),
        ("POST", "/admin/keys", '{"name": "a", "limits": ["token=1/day"]}', 400, "did you mean 'tokens'"),
        ("POST", "/admin/keys", '{"name": "taken"}', 400, "a key named 'taken' already"),
        ("PUT", "/admin/keys/taken/limits", '{"remove": ["tokens/dya"]}', 400, "written MEASURE/PER"),
        ("GET", "/admin/keys/nobody/usage", None, 404, "there is no key 'nobody'"),
        ("GET", "/admin/keys/taken/usage?since=soon", None, 400, "since must be a time"),
    ],
)
async def test_what_is_wrong_is_said(
    serve: Any, ledger: Ledger, method: str, url: str, content: str | None, status: int, said: str
) -> None:
    Keys(ledger).create("taken")
    served = await serve(ledger=ledger, guarded={}, admin_key=ApiKeys(["the-admin-secret"]))
    async with httpx.AsyncClient(base_url=served.url) as http:
        found = await http.request(method, url, content=content, headers=ADMIN | {"content-type": "application/json"})
    assert found.status_code == status
    assert said in found.json()["error"]["message"]


def test_the_admin_key_is_one_word_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADMIN_VARIABLE, raising=False)
    assert load_admin_key(None) is None
    monkeypatch.setenv(ADMIN_VARIABLE, "from-the-environment")
    file = tmp_path / "admin"
    file.write_text("from-the-file\n")
    for given, key in ((None, "from-the-environment"), (file, "from-the-file")):
        found = load_admin_key(given)
        assert found is not None
        assert found.accepts(f"Bearer {key}")
    file.write_text("two\nkeys")
    with pytest.raises(InputError, match="must hold one admin key"):
        load_admin_key(file)
    with pytest.raises(EnvironmentalError, match="cannot read the admin key"):
        load_admin_key(tmp_path / "nothing")
