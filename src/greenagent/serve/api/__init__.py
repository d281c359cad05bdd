"""OpenAI's endpoints: each reads its requests and writes its answers (`greenagent.serve.wire.Asked`); the gateway does the rest.

`app` routes. `chat` is the core's own shape; `responses` translates to it and from it (`response_request`, `response_items`);
`completions` puts prompts to a general model as they are; `embeddings` asks a model that turns texts into vectors.
"""
