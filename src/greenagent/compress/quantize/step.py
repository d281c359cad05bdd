"""``quantize``: exports the candidate as a GGUF file of block-quantized weights, ready to serve, or as a checkpoint for GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from statistics import fmean
from typing import Any, Literal

from pydantic import Field, model_validator

from greenagent.compress.candidate import Candidate, bytes_of
from greenagent.compress.examples import NO_LIMIT, encode
from greenagent.compress.export.checkpoint import export_checkpoint, four_bit_grid
from greenagent.compress.export.gguf import export_gguf
from greenagent.compress.quantize.blocks import read_back
from greenagent.compress.quantize.codes import GRIDS, Codes
from greenagent.compress.quantize.formats import GpuFormat, Quant, stored_as
from greenagent.compress.quantize.layers import Target, quantize_layers
from greenagent.compress.run import Run, StepOptions

__all__ = ["Quantize"]

_COMPENSATED = (*GRIDS, "w4a16")


class Quantize(StepOptions):
    """Blocks of 32 weights for GGUF: Q8_0 (8.5 bits a weight), Q4_0 (4.5), Q4_1 (5.0), or F16 without quantization.

    For GPUs, a checkpoint that vLLM loads: fp8 (8 bits, activations too), w4a16 (4.5 bits, activations in 16). It goes into a
    folder of its own beside the served file.
    """

    format: Quant | GpuFormat = Field(default="Q8_0", description="how the weights are written")
    method: Literal["round", "gptq"] = Field(
        default="round",
        description="round to the nearest, or let later columns make up for the errors of earlier ones, on calibration examples",
    )
    calibration_examples: int = Field(default=128, ge=1, description="with gptq: examples on which errors are weighed")

    @model_validator(mode="after")
    def _method_fits(self) -> Quantize:
        if self.method == "gptq" and self.format not in _COMPENSATED:
            raise ValueError(f"quantize: gptq is for {', '.join(_COMPENSATED)}; {self.format} is only rounded")
        if self.method == "round" and "calibration_examples" in self.model_fields_set:
            raise ValueError("quantize: calibration_examples are for method: gptq; rounding looks at none")
        return self

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Writes ``model-FORMAT.gguf`` or the folder ``model-FORMAT``; the weights of the candidate stay as they are."""
        compensated = self._compensated(candidate, run) if self.method == "gptq" else None
        if self.format == "fp8" or self.format == "w4a16":
            path = run.step_dir / f"model-{self.format}"
            export_checkpoint(candidate.model, candidate.tokenizer, path, self.format, compensated)
        else:
            path = run.step_dir / f"model-{self.format}.gguf"
            export_gguf(candidate.model, candidate.tokenizer, path, self.format, run.name, compensated)
        run.notes.update(file=path.name, bytes=bytes_of(path))
        return candidate.exported(self.format, path)

    def _compensated(self, candidate: Candidate, run: Run) -> Mapping[str, Codes]:
        """The codes of all layers, with the errors they make on the card."""
        found = quantize_layers(
            candidate.model,
            encode(run.calibration(self.calibration_examples), run.interface, candidate.tokenizer, NO_LIMIT),
            run.step_dir / "checkpoints",
            self._target(candidate.model),
            pad_id=candidate.tokenizer.pad_token_id,
            progress=lambda done, total: run.progress("quantize: layers", done, total, ""),
        )
        ours, rounding = zip(*found.errors.values(), strict=True)
        run.notes.update(output_error=fmean(ours), output_error_rounded=fmean(rounding))
        return found

    def _target(self, model: Any) -> Target:
        if self.format == "fp8" or self.format == "w4a16":
            grid = four_bit_grid(model)
            return Target(grid, lambda weight: grid.rounded(weight).values(), lambda embedded: embedded)
        form, outer = self.format, stored_as(self.format, embedding=True)
        return Target(GRIDS[form], partial(read_back, form=form), partial(read_back, form=outer))
