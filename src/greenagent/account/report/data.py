"""What a report shows, as typed records. Unknown is ``None`` and is printed as unknown, never as 0."""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from greenagent.core.provenance import Provenance

__all__ = ["EnergyShares", "Method", "ReportData", "ReportRow", "ReportStep"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ReportRow(_Part):
    """One line of the table: a model on an engine, its quality and what a correct answer costs.

    ``engine_j_per_correct`` counts the engine alone; ``j_per_correct`` adds gateway and platform overhead.
    ``carbon_g_per_correct`` stands for ``j_per_correct``. ``low`` and ``high`` bound ``accuracy`` (95%).
    """

    name: str
    engine: str | None = None
    split: str | None = None
    accuracy: float | None = Field(default=None, ge=0, le=1)
    low: float | None = None
    high: float | None = None
    examples: int | None = None
    parameters: int | None = None
    served_bytes: int | None = None
    tokens_per_s: float | None = None
    engine_j_per_correct: float | None = None
    j_per_correct: float | None = None
    carbon_g_per_correct: float | None = None
    provenance: Provenance | None = None


class ReportStep(_Part):
    """One recipe step of one model: size after it and joules it took (``energy_j``, whole machine share of that step)."""

    model: str
    step: str
    parameters: int | None = None
    bytes: int | None = None
    energy_j: float | None = None
    carbon_g: float | None = None
    duration_s: float | None = None
    provenance: Provenance | None = None


class EnergyShares(_Part):
    """Where the joules of a period went. Every joule is in one share only; ``None`` where no activity said anything."""

    engine_j: float | None = None
    overhead_j: float | None = None
    idle_j: float | None = None
    training_j: float | None = None
    other_j: float | None = Field(default=None, description="evaluations, commands, jobs and benches outside their requests")
    unknown_activities: int = Field(default=0, description="activities without a joule figure, which no share holds")
    provenance: Provenance | None = None

    def named(self) -> list[tuple[str, float]]:
        """The known shares with their printed names, in a fixed order."""
        shares = [
            ("Training", self.training_j),
            ("Requests: engine", self.engine_j),
            ("Requests: overhead", self.overhead_j),
            ("Idle", self.idle_j),
            ("Evaluation and other", self.other_j),
        ]
        return [(name, value) for name, value in shares if value is not None]

    @property
    def total_j(self) -> float | None:
        """The sum of the known shares; ``None`` when none is known."""
        known = [value for _, value in self.named()]
        return sum(known) if known else None


class Method(_Part):
    """How one kind of figure comes about."""

    figure: str
    method: str


class ReportData(_Part):
    """Everything on the page. ``baseline`` and ``chosen`` name the two rows (by index) that the headline compares."""

    title: str
    created_at: AwareDatetime
    summary: str = ""
    rows: list[ReportRow]
    baseline: int | None = None
    chosen: int | None = None
    steps: list[ReportStep] = Field(default_factory=list)
    shares: EnergyShares = Field(default_factory=EnergyShares)
    carbon: str | None = Field(default=None, description="zone, intensity and source of the carbon factor, in words")
    methods: list[Method] = Field(default_factory=list)
    facts: dict[str, str] = Field(default_factory=dict, description="machine and versions")
    notes: list[str] = Field(default_factory=list)
