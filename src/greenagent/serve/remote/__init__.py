"""A tier on another server that speaks OpenAI's API: vLLM, llama-server, a cloud, another greenagent.

`dialect` puts the request as its client wrote it. `client` asks, and leaves a server alone for a while that fails again and again
(`breaker`). The joules are what that server says of them, else an estimate from the config, else unknown.
"""
