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
# Outputs by which a driver says whether arguments were changed, and whether tensors came back where the task
# asks for tensors; `verify.judge` reads them. Who forges the first could as well leave the arguments alone.
CHANGED, TENSORS = "changed", "tensors"


class Wrong(Exception):  # noqa: N818 (a verdict, not an error)
    """Say what is wrong with an answer, and not what is right: the student reads the message.

    `measured` is for teachers alone: a number that a student could choose would carry hidden inputs.
    """

    def __init__(self, message: str, measured: str = ""):
        super().__init__(message)
        self.measured = measured


@dataclass(frozen=True)
class Case:
    """Hold one trial of a question.

    `driver` is Python source, executed in a copy of the notebook's namespace after every cell has run, with
    two more names: `inputs`, a dict of arrays, and `outputs`, an empty dict to fill with arrays, tensors or
    numbers. The student's code can read all that the sandbox holds, the driver's own variables too: what
    `verify` needs beyond the inputs is `kept` here, and no driver computes what is right.
    `about` says in a few words what the case tries; the student reads it beside the message of a wrong
    answer.
    """

    driver: str
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    about: str = ""
    kept: dict[str, np.ndarray] = field(default_factory=dict)  # never sent


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
    total_seconds: float = 300.0  # all cells of ours and all answers
    own_seconds: float = 120.0  # all other cells, which are the student's own
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
    becomes `outputs["0"]`, and `"1"`, ... for the further members of a tuple or list. `CHANGED` and, with
    `tensors=True`, `TENSORS` are noted.
    """
    values = [f"_take({name!r})" for name in arguments]
    values += [f"{key}={value!r}" for key, value in keywords.items()]
    convert = "__import__('torch').from_numpy(_value)" if tensors else "_value"
    return (
        "_given = []\n"
        "def _take(_name):\n"
        "    _value = inputs[_name].copy()\n"
        "    _given.append((_value, inputs[_name]))\n"
        f"    return _value.item() if _value.ndim == 0 else {convert}\n"
        f"_result = {function}({', '.join(values)})\n"
        "import builtins as _b\n"  # a notebook may well have a variable called `list`
        "_result = _result if _b.isinstance(_result, (_b.tuple, _b.list)) else (_result,)\n"
        "outputs.update((_b.str(_position), _value) for _position, _value in _b.enumerate(_result))\n"
        f"outputs[{CHANGED!r}] = _b.any(_one.tobytes() != _before.tobytes() for _one, _before in _given)\n"
    ) + (
        "import torch as _t\n"
        f"outputs[{TENSORS!r}] = _b.all(_b.isinstance(_value, _t.Tensor) for _value in _result)\n"
        if tensors
        else ""
    )


PLAIN_TYPES = {
    np.dtype(name): name
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    )
}


def type_name(value: np.ndarray) -> str:
    """Return NumPy's name of a plain type of numbers, for others "another type"."""
    return PLAIN_TYPES.get(value.dtype.newbyteorder("="), "another type")


def some_or_all(wrong: np.ndarray) -> str:
    """Say "some values" or "all values"; a count could carry hidden inputs to the student's page."""
    return "all values" if wrong.all() and wrong.size > 1 else "the value" if wrong.all() else "some values"


def take(outputs: Arrays, name: str, shape: tuple[int, ...] | None = None, *, what: str = "") -> np.ndarray:
    """Return one output as float64; raise `Wrong` if it is absent, of another shape, or not finite.

    The message calls it `what`, as the task does, else by its name in the driver. What came back is described
    in our own words only: the student's code chose it, after it saw the inputs.
    """
    what = what or f"output {name}"
    if name not in outputs:
        raise Wrong(f"{what}: nothing was returned")
    value = np.asarray(outputs[name])
    if value.dtype.kind not in "biuf":
        raise Wrong(f"{what}: no real numbers")
    if shape is not None and value.shape != tuple(shape):
        other = "another number of dimensions" if value.ndim != len(shape) else "another shape"
        raise Wrong(f"{what}: {other}, the task asks for {tuple(map(int, shape))}")
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
        raise Wrong(f"{what}: {some_or_all(~np.isfinite(value))} not finite")
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
    value = take(outputs, name, expected.shape, what=what)
    off = ~(np.abs(value - expected) <= atol + rtol * np.abs(expected))  # NaN is wrong
    if off.any():
        raise Wrong(f"{what or f'output {name}'}: {some_or_all(off)} wrong")
