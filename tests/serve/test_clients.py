"""Real clients, unmodified: ``openai`` with its helpers, sync and async, and ``pydantic-ai`` agents with tools."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from greenagent.core.engine import EngineRequest
from greenagent.core.interface import Interface

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


class Weather(BaseModel):
    city: str
    days: int


def sync_client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused-key", max_retries=0)


async def test_openai_without_async(serve: Any) -> None:
    served = await serve("good morning")

    def ask() -> list[str]:
        with sync_client(served.url) as client:
            chat = client.chat.completions.create(**ASK)
            streamed = client.chat.completions.create(**ASK, stream=True)
            response = client.responses.create(model="tiny", input="hello")
            with client.responses.stream(model="tiny", input="hello") as stream:
                final = stream.get_final_response()
            completion = client.completions.create(model="tiny", prompt="hello")
            return [
                chat.choices[0].message.content or "",
                "".join(chunk.choices[0].delta.content or "" for chunk in streamed),
                response.output_text,
                final.output_text,
                completion.choices[0].text,
            ]

    assert await asyncio.to_thread(ask) == ["good morning"] * 5


async def test_openai_parses_and_streams_chats(serve: Any) -> None:
    served = await serve('{"city":"Paris","days":2}', token_s=0.001)
    client = served.openai()
    parsed = await client.chat.completions.parse(**ASK, response_format=Weather)
    assert parsed.choices[0].message.parsed == Weather(city="Paris", days=2)
    async with client.chat.completions.stream(**ASK, response_format=Weather) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.parsed == Weather(city="Paris", days=2)


def agent_script(request: EngineRequest) -> str:
    """Calls the tool first, then answers with what it gave."""
    results = [m.content for m in request.messages or [] if m.role == "tool"]
    return f"It is {results[-1]}." if results else '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_pydantic_ai_agent_uses_its_tool(serve: Any, api: str, stream: bool) -> None:
    pytest.importorskip("pydantic_ai")
    served = await serve(agent_script)
    asked: list[str] = []
    agent = pydantic_ai_agent(served.url, api)

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "sunny in " + city

    if stream:
        async with agent.run_stream("How is the weather in Paris?") as result:
            output = await result.get_output()
    else:
        result = await agent.run("How is the weather in Paris?")
        output = result.output
    assert output == "It is sunny in Paris."
    assert asked == ["Paris"]
    assert len(served.ledger.activities) == 2


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_of_a_model_that_only_calls_comes_to_an_end(serve: Any, api: str, stream: bool) -> None:
    pytest.importorskip("pydantic_ai")
    served = await serve("weather|city= Paris", interface=Interface(kind="declared"))
    asked: list[str] = []
    agent = pydantic_ai_agent(served.url, api)

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "sunny in " + city

    if stream:
        async with agent.run_stream("How is the weather in Paris?") as result:
            output = await result.get_output()
    else:
        output = (await agent.run("How is the weather in Paris?")).output
    assert (output, asked) == ("sunny in Paris", ["Paris"])


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_a_pydantic_ai_agent_gets_typed_output(serve: Any, api: str) -> None:
    pydantic_ai = pytest.importorskip("pydantic_ai")
    arguments = {"city": "Paris", "days": 2}

    def script(request: EngineRequest) -> str:
        if request.tools:
            return json.dumps({"name": request.tools[0].name, "arguments": arguments})
        return json.dumps(arguments)

    served = await serve(script)
    for wanted in (Weather, pydantic_ai.NativeOutput(Weather)):
        result = await pydantic_ai_agent(served.url, api, output_type=wanted).run("Two days in Paris, please.")
        assert result.output == Weather(city="Paris", days=2)
    kinds = [r.grammar.kind for r in served.worker.requests if r.grammar is not None]
    assert kinds[-1] == "json_schema"


def pydantic_ai_agent(url: str, api: str, **options: Any) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="unused-key")
    model = OpenAIChatModel("tiny", provider=provider) if api == "chat" else OpenAIResponsesModel("tiny", provider=provider)
    return Agent(model, instructions="Be brief.", **options)
