"""``quantize``: exports the candidate as a GGUF file of block-quantized weights, ready to serve."""

from __future__ import annotations

from pydantic import Field

from greenagent.compress.candidate import Candidate
from greenagent.compress.export.gguf import export_gguf
from greenagent.compress.quantize.formats import Quant
from greenagent.compress.run import Run, StepOptions

__all__ = ["Quantize"]


class Quantize(StepOptions):
    """Round-to-nearest blocks of 32 weights: Q8_0 (8.5 bits a weight), Q4_0 (4.5), Q4_1 (5.0), or F16 without quantization."""

    format: Quant = Field(default="Q8_0", description="the blocks of the GGUF file")

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Writes ``model-FORMAT.gguf``; the weights of the candidate stay as they are."""
        path = run.step_dir / f"model-{self.format}.gguf"
        export_gguf(candidate.model, candidate.tokenizer, path, self.format, name=run.name)
        run.notes.update(file=path.name, bytes=path.stat().st_size)
        return candidate.exported(self.format, path)
