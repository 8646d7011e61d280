"""What a homework's `hidden.py` says: the questions, the inputs they are tried on and how outputs are judged.

`hidden.py` defines `QUESTIONS: list[Question]` and is only ever imported by the grader's own process. The
student's code runs in a sandbox that receives the inputs of each case and hands back arrays; `verify`
compares them here with a reference computed here, so the reference never meets the student's code.

    def cases(rng):
        return [Case(call("softmax", "theta", tensors=True), {"theta": rng.normal(size=7)}, "random logits")]

    def verify(case, outputs):
        match(outputs, "0", scipy.special.softmax(case.inputs["theta"]))

    QUESTIONS = [Question("q1", points=2, cases=cases, verify=verify)]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Wrong(Exception):  # noqa: N818 (a verdict, not an error)
    """Say what is wrong with an answer, and not what is right: the student reads the message."""


@dataclass(frozen=True)
class Case:
    """Hold one trial of a question.

    `driver` is Python source, executed in a copy of the notebook's namespace after every cell has run, with
    two more names: `inputs`, a dict of arrays, and `outputs`, an empty dict to fill with arrays, tensors or
    numbers.
    `about` says in a few words what the case tries; the student reads it beside the message of a wrong
    answer.
    """

    driver: str
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    about: str = ""


@dataclass(frozen=True)
class Question:
    """Describe one question: all its cases must pass for its points.

    Its answer cells are those whose `# @answer` name is `id` or starts with `id` and an underscore. `cases`
    draws the trials from the batch's secret random generator. `verify` raises `Wrong` or returns; with
    `weights` (the name of a safetensors file beside the notebook) it is called as `verify(case, outputs,
    weights=dict of arrays)`. A `manual` question is left for a teacher to mark and needs neither.
    """

    id: str
    points: float
    cases: Callable[[np.random.Generator], list[Case]] | None = None
    verify: Callable[..., None] | None = None
    manual: bool = False
    weights: str | None = None

    def __post_init__(self):
        if not self.id.isalnum():
            raise ValueError(f"a question id is letters and digits ('q2a'), not {self.id!r}")
        if not self.manual and (self.cases is None or self.verify is None):
            raise ValueError(f"question {self.id} needs cases and verify, or manual=True")

    def owns(self, answer: str) -> bool:
        """Tell whether the answer cell of this name belongs to the question."""
        return answer == self.id or answer.startswith(f"{self.id}_")


@dataclass(frozen=True)
class Limits:
    """Bound what one submission may use; a `hidden.py` that needs others defines `LIMITS = Limits(...)`."""

    cell_seconds: float = 60.0  # one cell of the notebook
    total_seconds: float = 300.0  # all cells
    question_seconds: float = 30.0  # all cases of one question
    memory_bytes: int = 4 << 30  # everything in the sandbox
    process_bytes: int = 5 << 29  # one process, on top of interpreter and torch; an honest MemoryError
    disk_bytes: int = 256 << 20  # of /tmp, and again of /dev/shm
    files: int = 20_000  # in /tmp and /dev/shm
    processes: int = 128  # and threads


def call(function: str, *arguments: str, tensors: bool = False, **keywords: object) -> str:
    """Write the driver that calls the student's `function`.

    `arguments` name entries of `inputs`, passed by position (an input of shape () as a Python number, the
    others as arrays, or as torch tensors with `tensors=True`); `keywords` are literals. What it returns
    becomes `outputs["0"]`, and `"1"`, ... for the further members of a tuple or list.
    """
    values = [f"_take({name!r})" for name in arguments]
    values += [f"{key}={value!r}" for key, value in keywords.items()]
    convert = "__import__('torch').from_numpy(_value.copy())" if tensors else "_value"
    return (
        "def _take(_name):\n"
        "    _value = inputs[_name]\n"
        f"    return _value.item() if _value.ndim == 0 else {convert}\n"
        f"_result = {function}({', '.join(values)})\n"
        "import builtins as _b\n"  # a notebook may well have a variable called `list`
        "_result = _result if _b.isinstance(_result, (_b.tuple, _b.list)) else (_result,)\n"
        "outputs.update((_b.str(_position), _value) for _position, _value in _b.enumerate(_result))\n"
    )


def take(outputs: Arrays, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return one output as float64; raise `Wrong` if it is absent, of another shape, or not finite."""
    if name not in outputs:
        raise Wrong(f"nothing was returned for output {name}")
    value = np.asarray(outputs[name])
    if value.dtype.kind not in "biuf":
        raise Wrong(f"output {name} has type {value.dtype}, expected real numbers")
    if shape is not None and value.shape != tuple(shape):
        raise Wrong(f"output {name} has shape {value.shape}, the task asks for {tuple(shape)}")
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
        raise Wrong(f"output {name} holds {np.count_nonzero(~np.isfinite(value))} values that are not finite")
    return value


def match(
    outputs: Arrays,
    name: str,
    expected: np.ndarray,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    what: str = "",
) -> None:
    """Raise `Wrong`, without a word of `expected`, unless the output equals it within the tolerance."""
    expected = np.asarray(expected, dtype=np.float64)
    value = take(outputs, name, expected.shape)
    off = ~(np.abs(value - expected) <= atol + rtol * np.abs(expected))  # NaN is wrong
    if off.any():
        subject = what or f"output {name}"
        raise Wrong(f"{subject}: {np.count_nonzero(off)} of {off.size} values are wrong")
