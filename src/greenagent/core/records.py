"""Versioned records: the seams between the rooms. Each has a ``schema_version``; readers refuse newer ones.

Unknown figures are ``None``, never 0. Every ``energy_j`` and ``carbon_g`` has its provenance beside it.
Boundary: ``energy_j = engine_j + overhead_j`` where both are known.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from greenagent.core.interface import Interface
from greenagent.core.provenance import Provenance

__all__ = [
    "Activity",
    "ActivityKind",
    "DataShare",
    "Energy",
    "FileFact",
    "ModelCard",
    "Payback",
    "Quality",
    "ServingCost",
    "StepFact",
]

ActivityKind = Literal["request", "idle", "overhead", "training", "evaluation", "command", "job", "bench"]


class Record(BaseModel):
    """Base of what is written to disk."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1


class Energy(BaseModel):
    """Joules of one thing, at two boundaries, and the carbon they stand for.

    ``engine_j``: the engine's share. ``overhead_j``: gateway, platform floor while in flight. ``energy_j``: both.
    """

    model_config = ConfigDict(extra="forbid")

    energy_j: float | None = None
    engine_j: float | None = None
    overhead_j: float | None = None
    provenance: Provenance | None = None
    carbon_g: float | None = None
    carbon_provenance: Provenance | None = None
    zone: str | None = None
    intensity_g_per_kwh: float | None = None


class Activity(Record):
    """One ledger record: what ran, when, where, joules, grams, tokens, quality, and how each is known.

    The ledger sets ``writer``, ``seq`` and the hashes; producers leave them out.
    """

    id: str
    parent_id: str | None = None
    kind: ActivityKind
    name: str = Field(description="what ran: a model, a recipe step, a command line")
    started_at: AwareDatetime
    ended_at: AwareDatetime
    host: str | None = None
    zone: str | None = None
    energy: Energy = Field(default_factory=Energy)
    cpu_s: float | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    requests: int | None = None
    correct: float | None = Field(default=None, description="correct answers among the requests, where known")
    cost: float | None = None
    currency: str | None = None
    ghg_scope: Literal[1, 2, 3] | None = None
    factor_version: str | None = Field(default=None, description="which table the carbon factor comes from")
    outcome: Literal["ok", "error", "cancelled"] = "ok"
    key_id: str | None = Field(default=None, description="which API key asked for it: its id, never the key")
    attributes: dict[str, Any] = Field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Wall seconds between start and end."""
        return (self.ended_at - self.started_at).total_seconds()


class Quality(BaseModel):
    """Quality on one split: accuracy with its 95% Wilson interval, and what it cost."""

    model_config = ConfigDict(extra="forbid")

    split: str
    metric: str
    accuracy: float
    examples: int
    low: float
    high: float
    slices: dict[str, tuple[float, int]] = Field(default_factory=dict, description="slice -> (accuracy, examples)")
    energy: Energy | None = None
    energy_per_correct_j: float | None = None
    engine: str | None = Field(default=None, description="the engine and precision that answered")
    concurrency: int | None = Field(
        default=None, description="requests in flight at once, at most: what a request costs depends on it"
    )


class ServingCost(BaseModel):
    """What one request costs on the engine: the same requests, one at a time, before and after a step.

    A request may have as many tokens in its answer as the expected one, so that a model which no longer ends its answers is not
    taken for a slow one.
    """

    model_config = ConfigDict(extra="forbid")

    engine: str = Field(description="the engine and the form of the file")
    served_bytes: int = Field(description="of the file that the engine loads")
    requests: int = Field(description="how many were answered, repeats counted")
    examples: int | None = Field(default=None, description="how many of the different requests the engine takes")
    request_s: float = Field(description="median seconds of a request")
    energy: Energy = Field(description="mean of a request; engine_j is the engine's own process")


class StepFact(BaseModel):
    """What one recipe step did to the model, and what that took.

    Seconds, joules and CPU seconds are of all its work, checks and measurements too; ``peak_rss_bytes`` is of the step proper.
    """

    model_config = ConfigDict(extra="forbid")

    step: str
    options: dict[str, Any] = Field(default_factory=dict)
    parameters_before: int | None = None
    parameters_after: int | None = None
    bytes_after: int | None = None
    duration_s: float | None = None
    energy: Energy = Field(default_factory=Energy)
    cpu_s: float | None = None
    peak_rss_bytes: int | None = Field(default=None, description="the most memory that its processes held at once")
    serving_before: ServingCost | None = None
    serving_after: ServingCost | None = None
    quality: Quality | None = None
    notes: dict[str, Any] = Field(default_factory=dict)


class Payback(BaseModel):
    """When the joules that making a model took are earned back by serving it instead of its teacher.

    ``requests`` is ``making.energy_j / saved_per_request_j``, rounded up; ``None`` where nothing is saved, or not known. It
    depends on how many requests are in flight at once (``concurrency``): ``alone`` has the same of requests asked one at a time.
    """

    model_config = ConfigDict(extra="forbid")

    teacher: str
    making: Energy = Field(description="all steps up to the model, and the teacher's where teacher_counted")
    teacher_counted: bool = Field(
        default=True, description="whether making has what the teacher took; not known of one made elsewhere without a card"
    )
    split: str = Field(description="whose examples both were asked")
    engine: str | None = None
    teacher_engine: str | None = None
    concurrency: int | None = Field(default=None, description="requests in flight at once, the same for both")
    request_j: float | None = Field(default=None, description="total joules per request of this model")
    teacher_request_j: float | None = None
    saved_per_request_j: float | None = Field(default=None, description="less than 0: this model takes more than its teacher")
    requests: int | None = None
    provenance: Provenance | None = Field(default=None, description="of the number of requests")
    alone: Payback | None = Field(default=None, description="from requests one at a time, where the steps of both measured them")


class DataShare(BaseModel):
    """A point of the curve of quality and joules against the share of the data used: one run of the recipe with that share.

    Of several seeds it is the run of the median accuracy.
    """

    model_config = ConfigDict(extra="forbid")

    share: float = Field(description="of the examples without near-duplicates, where by says how it was chosen; else 1")
    by: str = Field(description="how the share was chosen")
    examples: int | None = Field(default=None, description="trained on")
    split: str = Field(default="select", description="whose examples the finished model was asked")
    asked: int = Field(description="how many these were")
    accuracy: float
    low: float
    high: float
    seeds: int = 1
    energy: Energy = Field(description="of choosing and of all later steps")


class FileFact(BaseModel):
    """A file of a model directory."""

    model_config = ConfigDict(extra="forbid")

    path: str
    bytes: int
    sha256: str
    format: str = Field(description="for example gguf:Q8_0, safetensors:bf16, tokenizer")


class ModelCard(Record):
    """``card.json`` beside a model: lineage, sizes, quality per split, joules, gCO2e, method of each figure."""

    name: str
    created_at: datetime
    greenagent_version: str
    base: str = Field(description="the model it was made from")
    recipe: dict[str, Any] = Field(default_factory=dict)
    recipe_sha256: str | None = None
    task_sha256: str | None = None
    architecture: str
    parameters: int
    bytes_fp32: int
    served_file: str | None = None
    served_bytes: int | None = None
    files: list[FileFact] = Field(default_factory=list)
    interface: Interface = Field(default_factory=Interface)
    steps: list[StepFact] = Field(default_factory=list)
    quality: list[Quality] = Field(default_factory=list)
    teacher: str | None = Field(default=None, description="the model that this one is compared with: it was made smaller from it")
    teacher_quality: list[Quality] = Field(
        default_factory=list, description="the teacher's, in the same run on the same examples"
    )
    payback: Payback | None = None
    data_share: list[DataShare] = Field(
        default_factory=list, description="quality and joules against the share of the data used, where that was tried"
    )
    agreement: dict[str, Any] = Field(default_factory=dict, description="engine against transformers, greedy, token by token")
    energy: Energy = Field(default_factory=Energy, description="the sum over the steps")
    notes: list[str] = Field(default_factory=list)
