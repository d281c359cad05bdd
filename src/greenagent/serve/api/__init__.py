"""OpenAI's endpoints: each reads requests and writes answers (`greenagent.serve.wire.Question`); the gateway does the rest.

`app` routes. `chat` is the core's own shape; `responses` translates to it and from it (`response_request`, `response_items`);
`completions` puts prompts to a general model as they are; `embeddings` asks a model that turns texts into vectors.
"""
