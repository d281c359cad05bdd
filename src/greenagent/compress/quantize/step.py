"""``quantize``: exports the candidate as a GGUF file of block-quantized weights, ready to serve, or as a checkpoint for GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal, cast, get_args

from pydantic import Field, model_validator

from greenagent.compress.candidate import Candidate, Family, Shape, bytes_of, zipped_bytes
from greenagent.compress.classify.candidate import rows_of
from greenagent.compress.classify.encoder.candidate import Encoder
from greenagent.compress.classify.encoder.early import EarlyExit
from greenagent.compress.export.checkpoint import awkward_widths, export_checkpoint, four_bit_grid
from greenagent.compress.export.gguf import export_gguf
from greenagent.compress.quantize.blocks import read_back
from greenagent.compress.quantize.codes import GRIDS, Codes
from greenagent.compress.quantize.encoder import export_dynamic_int8, export_int8
from greenagent.compress.quantize.formats import EncoderFormat, Format, GpuFormat, Quant, stored_as
from greenagent.compress.quantize.layers import Target, quantize_layers
from greenagent.compress.run import Run, StepOptions
from greenagent.compress.training.examples import NO_LIMIT, encode
from greenagent.core.errors import RecipeError

__all__ = ["Quantize"]

_COMPENSATED = (*GRIDS, "w4a16")
_SELECT_EXAMPLES = 500


class Quantize(StepOptions):
    """Blocks of 32 weights for GGUF: Q8_0 (8.5 bits a weight), Q4_0 (4.5), Q4_1 (5.0), or F16 without quantization.

    For GPUs, a checkpoint that vLLM loads: fp8 (8 bits, activations too), w4a16 (4.5 bits, activations in 16). It goes into a
    folder of its own beside the served file.

    For encoders, an OpenVINO graph: fp32, fp16, or int8 (weights and activations, by NNCF, which takes layers back to floating
    point until the accuracy on select has fallen by ``most_loss`` at most). dynamic_int8 is torch's: linear layers only.
    """

    families: ClassVar[tuple[Family, ...]] = ("language", "encoder")

    format: Format = Field(default="Q8_0", description="how the weights are written")
    method: Literal["round", "gptq"] = Field(
        default="round",
        description="round to the nearest, or let later columns make up for the errors of earlier ones, on calibration examples",
    )
    calibration_examples: int = Field(
        default=128, ge=1, description="with gptq and int8: examples on which errors or ranges are measured"
    )
    most_loss: float = Field(default=0.01, ge=0, lt=1, description="with int8: the most accuracy on select that it may cost")

    @model_validator(mode="after")
    def _method_fits(self) -> Quantize:
        if self.method == "gptq" and self.format not in _COMPENSATED:
            raise ValueError(f"quantize: gptq is for {', '.join(_COMPENSATED)}; {self.format} is only rounded")
        if self.method == "round" and self.format != "int8" and "calibration_examples" in self.model_fields_set:
            raise ValueError("quantize: calibration_examples are for method: gptq and format: int8; rounding looks at none")
        if self.format != "int8" and "most_loss" in self.model_fields_set:
            raise ValueError("quantize: most_loss is for format: int8")
        return self

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Writes ``model-FORMAT.gguf`` or the folder ``model-FORMAT``; the weights of the candidate stay as they are."""
        if isinstance(candidate, Encoder):
            return self._encoder(candidate, run)
        compensated = self._compensated(candidate, run) if self.method == "gptq" else None
        if self.format == "fp8" or self.format == "w4a16":
            path = run.step_dir / f"model-{self.format}"
            export_checkpoint(candidate.model, candidate.tokenizer, path, self.format, compensated)
            if self.format == "w4a16" and (widths := awkward_widths(candidate.model)):
                run.notes["not_multiples_of_128"] = widths
                listed = ", ".join(map(str, widths))
                run.say(f"w4a16: layers read {listed} values, no multiple of 128: vLLM before June 2026 refuses the checkpoint")
        else:
            path = run.step_dir / f"model-{self.format}.gguf"
            export_gguf(candidate.model, candidate.tokenizer, path, cast(Quant, self.format), run.name, compensated)
        return self._written(candidate, path, run)

    def fit_shape(self, shape: Shape) -> Shape:
        shape = super().fit_shape(shape)
        if (self.format in get_args(EncoderFormat)) != (shape.family == "encoder"):
            fitting = get_args(EncoderFormat) if shape.family == "encoder" else (*get_args(Quant), *get_args(GpuFormat))
            raise RecipeError(f"quantize: {self.format} is for other models; here it is one of {', '.join(fitting)}")
        if self.format == "Q4_1" and shape.sparse:
            raise RecipeError("quantize: Q4_1 has no zero, and this model is sparse: take Q8_0 or Q4_0")
        return shape

    def check(self, earlier: Sequence[StepOptions]) -> None:
        super().check(earlier)
        if "int8" in self.format and any(isinstance(step, EarlyExit) for step in earlier):
            raise RecipeError(f"quantize: an encoder with early exits is written in fp16 or fp32, not in {self.format}")

    def _encoder(self, candidate: Encoder, run: Run) -> Candidate:
        """Writes ``model-FORMAT.xml`` with its weights, or ``model-dynamic_int8.pt``."""
        path = run.step_dir / f"model-{self.format}.{'pt' if self.format == 'dynamic_int8' else 'xml'}"
        if self.format == "dynamic_int8":
            export_dynamic_int8(candidate, path)
        elif self.format == "int8":
            calibration = candidate.readable(rows_of(run.calibration(self.calibration_examples), run.interface))
            select = candidate.readable(rows_of(list(run.select)[:_SELECT_EXAMPLES], run.interface))
            found = export_int8(
                candidate,
                path,
                calibration,
                select,
                self.most_loss,
                lambda done, total: run.progress("quantize: accuracy on select", done, total, ""),
            )
            run.notes.update(found)
        elif self.format == "fp32" or self.format == "fp16":
            candidate.export_graph(path, self.format)
        return self._written(candidate, path, run)

    def _written(self, candidate: Candidate, path: Path, run: Run) -> Candidate:
        run.notes.update(file=path.name, bytes=bytes_of(path))
        if candidate.shape.sparse:
            run.notes.update(zipped_bytes=zipped_bytes(path))
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
        form = cast(Quant, self.format)
        outer = stored_as(form, embedding=True)
        return Target(GRIDS[form], partial(read_back, form=form), partial(read_back, form=outer))
