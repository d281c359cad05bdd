"""What executes a model, and the worker process around it.

| file | what it has |
|---|---|
| `models` | the ``MODEL`` argument: embedded, GGUF file, model directory; ``card.json`` |
| `registry` | engines by name, built-in and from the entry-point group ``greenagent.engines`` |
| `base` | settings of an engine, and what a worker needs of it beyond `core.engine.Engine` |
| `openvino`, `torch_engine`, `stub` | the engines; `remote` is a client of somebody else's |
| `answer`, `tokenization`, `chat`, `admission`, `grammar` | their parts: growing answers, tokens, templates, cache, grammars |
| `worker`, `worker_main`, `wire`, `process` | `worker.WorkerClient`, the process it talks to, messages, start and end |
| `restart` | a worker that is started again when it dies |

An engine that holds the interpreter lock while it computes must not share a process with a gateway: hence the worker.
Not here: energy (`measure`), HTTP serving (`serve`). Importing this package loads no engine.
"""
