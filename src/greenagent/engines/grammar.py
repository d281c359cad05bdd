"""Checks grammars before they reach the engine.

A grammar that xgrammar cannot compile makes OpenVINO's ``step()`` raise, and the pipeline cannot be stepped again: one bad schema
from one client would end everybody's requests. So every new grammar is first tried on a model of a few hundred bytes that shares
the engine's tokenizer (about 1 ms a grammar beside its compilation, which the engine then finds in the tokenizer's cache).
"""

from __future__ import annotations

import json
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from greenagent.core.engine import Grammar
from greenagent.core.errors import RequestError

__all__ = ["GrammarCheck", "reason_of"]

_REMEMBERED = 1024
_FIELD = {"json_schema": "json_schema", "regex": "regex", "ebnf": "grammar"}


class GrammarCheck:
    """Turns grammars into OpenVINO's ``StructuredOutputConfig``, once each; bad ones raise `RequestError`."""

    def __init__(self, tokenizer: Any, end_id: int) -> None:
        self._tokenizer = tokenizer
        self.end_id = end_id
        self._prober: Any = None
        self._known: OrderedDict[Grammar, Any] = OrderedDict()

    def config(self, grammar: Grammar) -> Any:
        """The ``StructuredOutputConfig`` of ``grammar``.

        Raises:
            RequestError: it does not compile; the message says where.
        """
        if grammar in self._known:
            self._known.move_to_end(grammar)
            return self._known[grammar]
        import openvino_genai as genai

        config = genai.StructuredOutputConfig(**_described(grammar))
        self._try(config, grammar)
        self._known[grammar] = config
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return config

    def _try(self, config: Any, grammar: Grammar) -> None:
        import numpy as np
        import openvino as ov
        import openvino_genai as genai

        if grammar.kind == "json_schema":
            try:
                json.loads(grammar.text)
            except ValueError as error:
                raise RequestError(f"the JSON schema is not JSON: {error}", "grammar") from error
        if self._prober is None:
            self._prober = _prober(self._tokenizer)
        generation = genai.GenerationConfig(max_new_tokens=1, structured_output_config=config)
        generation.set_eos_token_id(self.end_id)
        try:
            self._prober.generate(ov.Tensor(np.zeros((1, 1), dtype=np.int64)), generation)
        except RuntimeError as error:
            raise RequestError(f"the {grammar.kind} grammar does not compile: {reason_of(error)}", "grammar") from error


def _described(grammar: Grammar) -> dict[str, str]:
    """The grammar as OpenVINO's keyword; it has none for a choice, which is a rule of literals."""
    if grammar.kind == "choice":
        return {"grammar": "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in grammar.choices)}
    return {_FIELD[grammar.kind]: grammar.text}


def reason_of(error: RuntimeError) -> str:
    """The part of OpenVINO's message that is not a path of its build machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else "unknown reason"
    check, where, _ = first.partition(" failed at /")
    if where:  # what was checked, then in the next line what it means
        return lines[1] if len(lines) > 1 else check
    _, marker, tail = first.partition(".cc:")
    return tail.partition(": ")[2] if marker else first.rpartition("failed: ")[2]


def _prober(tokenizer: Any) -> Any:
    """A language model whose logits are all zero."""
    import numpy as np
    import openvino as ov
    import openvino_genai as genai
    from openvino import opset13 as op

    vocabulary = max(tokenizer.get_vocab().values()) + 1
    inputs = []
    for name, dtype, shape in (
        ("input_ids", np.int64, [-1, -1]),
        ("attention_mask", np.int64, [-1, -1]),
        ("position_ids", np.int64, [-1, -1]),
        ("beam_idx", np.int32, [-1]),
    ):
        node = op.parameter(shape, dtype, name=name)
        node.output(0).set_names({name})
        inputs.append(node)
    column = op.convert(op.unsqueeze(inputs[0], op.constant(np.int64(-1))), "f32")
    logits = op.multiply(column, op.broadcast(op.constant(np.float32(0)), op.constant(np.array([1, 1, vocabulary]))))
    logits.output(0).set_names({"logits"})
    model = ov.Model([op.result(logits)], inputs, "grammar-check")
    with tempfile.TemporaryDirectory(prefix="greenagent-") as folder:
        xml, weights = Path(folder, "model.xml"), Path(folder, "model.bin")
        ov.serialize(model, str(xml), str(weights))
        data = np.frombuffer(weights.read_bytes() or b"\0", dtype=np.uint8).copy()
        text = xml.read_text(encoding="utf-8")
    return genai.LLMPipeline(text, ov.Tensor(data), tokenizer, "CPU", ATTENTION_BACKEND="SDPA", INFERENCE_NUM_THREADS=1)
