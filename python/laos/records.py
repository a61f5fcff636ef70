"""The program's JSON as objects. What each key means: docs/json.md, which a test holds these against."""

from __future__ import annotations

import typing


class Record:
    """An object of JSON: `r.kl.mean` is r["kl"]["mean"]. What an older or newer program writes besides is there too."""

    def __init__(self, values):
        self._values = values

    def __getattr__(self, key):
        if key.startswith("__"):
            raise AttributeError(key)
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"there is no {key} here, only {', '.join(self._values)}") from None

    def __getitem__(self, key):
        return _typed(self._values[key], typing.get_type_hints(type(self)).get(key))

    def __contains__(self, key):
        return key in self._values

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def __dir__(self):
        return [*super().__dir__(), *self._values]

    def __eq__(self, other):
        return self._values == (other._values if isinstance(other, Record) else other)

    __hash__ = None

    def __repr__(self):
        return f"{type(self).__name__}({self._values!r})"

    def to_dict(self):
        return self._values


def _typed(value, hint):
    if isinstance(value, list):
        item = (typing.get_args(hint) or (None,))[0]
        return [_typed(one, item) for one in value]
    if isinstance(value, dict):
        kinds = [kind for kind in (hint, *typing.get_args(hint)) if isinstance(kind, type) and issubclass(kind, Record)]
        return (kinds or [Record])[0](value)
    return value


class PlannedLinear(Record):
    name: str
    label: str
    decided_by: str
    parameters: int
    weight_bits: int
    act_bits: int


class Refusal(Record):
    what: str
    where: str
    fix: str


class Plan(Record):
    """`laos quant --dry-run`"""

    recipe: Record
    format: str
    linears: typing.List[PlannedLinear]
    quantized_share: float
    four_bit_share: float
    kv_cache: str
    transform_share: float
    dataset: Record
    disk_bytes: int
    scratch_bytes: int
    peak_ram_bytes: int
    seconds: float
    health_seconds: float
    flops: float
    warnings: typing.List[str]
    refusals: typing.List[Refusal]


class Health(Record):
    """The verdict of the health check."""

    verdict: str
    reasons: typing.List[str]
    tokens: int
    kl_mean: typing.Optional[float]
    top1_agreement: typing.Optional[float]
    perplexity: typing.Optional[float]
    baseline_perplexity: typing.Optional[float]
    layers: typing.List[Record]
    continuations: typing.List[Record]


class Timings(Record):
    total: float
    fit: float
    layers: float
    save: float
    health: float


class QuantizedLinear(PlannedLinear):
    weight_error: typing.Optional[float]
    clipped: typing.Optional[float]
    range: typing.Optional[float]
    transform: str


class Layer(Record):
    seconds: float
    linears: typing.List[QuantizedLinear]
    training: typing.List[Record]
    key_error: typing.Optional[float]
    value_error: typing.Optional[float]


class Run(Record):
    """`laos quant`: its run.json"""

    laos: str
    environment: Record
    model: Record
    recipe: Record
    warnings: typing.List[str]
    timings: Timings
    peak_rss_bytes: int
    checkpoint_bytes: int
    health: typing.Optional[Health]
    layers: typing.List[Layer]


class Divergence(Record):
    mean: float
    stderr: typing.Optional[float]
    median: float
    p99: float
    max: float


class Evaluation(Record):
    """`laos eval` of one checkpoint on a text"""

    model: str
    perplexity: float
    perplexity_stderr: typing.Optional[float]
    tokens: int
    windows: int
    nll: float
    nll_increase: float
    kl: Divergence
    top1_agreement: float
    baseline: Evaluation


class Step(Record):
    """A line of `--progress json`"""

    stage: str
    share: float
    step: int
    steps: int
    layer: int
    layers: int
    iteration: int
    iterations: int
    loss: float
    rate: float
    seconds: float
    seconds_left: float
