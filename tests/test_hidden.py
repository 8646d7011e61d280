"""What a student's function can see of the hidden checks, and what it can bring out of the sandbox.

A student's code can walk from frame to frame, so it sees whatever the driver holds. Here every driver runs
with a recorder around the reference answers: what the frames hold, and what is sent, must not hold what
`verify` needs.
"""

import contextlib
import json
import re
import sys
from functools import cache

import numpy as np
import pytest
import torch

from grading import channel, inside, verify
from grading.judges import same_type
from grading.questions import CHANGED, TENSORS, Case, Question, Wrong, call, match, take
from tests.test_homeworks import (
    HOMEWORKS,
    code_cells,
    module,
    nbgrader,
    questions,
    shared_names,
    solution,
    weights_of,
)

SMALL = 300_000  # entries of an array that is looked at; what is larger is a large input
CALLS = 60  # of a student's functions, in one case, before which the frames are read

each = pytest.mark.parametrize("homework", HOMEWORKS, ids=lambda path: path.name)


@cache
def answer_files(homework):
    """Return the names under which the cells with answers were compiled."""
    return frozenset(cell.id for cell in code_cells(solution(homework)) if nbgrader(cell).get("solution"))


def arrays_in(value, found, *, into_functions, seen, depth=0):
    """Add to `found` every array of numbers that can be reached from a value."""
    if id(value) in seen or depth > 12:
        return
    seen[id(value)] = value
    deeper = lambda one: arrays_in(one, found, into_functions=into_functions, seen=seen, depth=depth + 1)  # noqa: E731
    if isinstance(value, torch.Tensor):
        if value.numel() <= SMALL and not value.is_complex():
            found.append(value.detach().to(torch.float64).numpy().copy())
    elif isinstance(value, np.ndarray):
        if value.size <= SMALL and value.dtype.kind in "biuf":
            found.append(value.astype(np.float64))
    elif isinstance(value, float):
        found.append(np.asarray(value))
    elif isinstance(value, dict):
        for one in list(value.values()):
            deeper(one)
    elif isinstance(value, list | tuple | set | frozenset):
        if value and all(type(one) in (bool, int, float) for one in value):
            found.append(np.asarray(list(value), dtype=np.float64))
        for one in list(value)[:1000]:
            deeper(one)
    elif callable(value) and hasattr(value, "__code__"):
        if into_functions:
            for cell in value.__closure__ or ():
                with contextlib.suppress(ValueError):  # not filled yet
                    deeper(cell.cell_contents)
            deeper(value.__defaults__)
    elif hasattr(value, "__dict__") and not isinstance(value, type) and type(value).__module__ != "builtins":
        deeper(vars(value))


class Recorder:
    """Note what the frames around a student's function hold, and what its own code was given.

    It looks until the first function of the student's returns something: what the driver makes of that is the
    student's own.
    """

    def __init__(self, files, names):
        self.files, self.given, self.around = files, [], []
        self.names, self.calls, self.inside, self.returned = {id(one) for one in names.values()}, 0, 0, False

    def look(self, values, found, *, into_functions):
        seen = {id(self): self}
        for value in values:
            if id(value) not in self.names:
                arrays_in(value, found, into_functions=into_functions, seen=seen)

    def walk(self, frame):
        """Note what a frame and those that called it hold, up to the grader's own."""
        while frame and frame.f_code is not inside.run_question.__code__:
            values = [one for name, one in frame.f_locals.items() if name != "outputs"]
            self.look(values, self.around, into_functions=True)
            frame = frame.f_back

    def __call__(self, frame, event, value):
        """Be what `sys.setprofile` calls."""
        if self.returned or event not in ("call", "return"):
            return
        mine, drivers = frame.f_code.co_filename in self.files, frame.f_code.co_filename == "<case>"
        entry = mine and frame.f_back and frame.f_back.f_code.co_filename not in self.files
        if entry and event == "call":
            self.inside += 1
            self.look(frame.f_locals.values(), self.given, into_functions=False)
            if self.calls < CALLS:
                self.calls += 1
                self.walk(frame.f_back)
        elif entry:
            self.inside -= 1
            self.returned = self.inside == 0 and value is not None
            if value is None:  # a constructor: what its object holds is the student's own
                self.look(frame.f_locals.values(), self.given, into_functions=False)
        elif drivers and self.inside and event == "call":  # the student's code calls back
            self.look(frame.f_locals.values(), self.given, into_functions=False)
        elif drivers and event == "return" and frame.f_code.co_name != "<module>":
            values = [one for one in frame.f_locals.values() if one is not value]
            self.look(values, self.around, into_functions=True)


def trivial(value):
    """Tell whether an output says nothing that one could need: constants, counts, small whole numbers."""
    whole = (value == np.round(value)).all()
    constant = value.size == 0 or np.ptp(value) == 0
    return (constant and (whole or value.size > 1)) or (whole and value.size < 8)


def same_but_for_scale(one, other):
    """Tell whether flat arrays are equal up to a sign or, where that is no accident, affine to each other."""
    if min(np.abs(one - other).max(), np.abs(one + other).max()) <= 1e-6 * np.abs(one).max():
        return True
    if one.size < 4 or np.ptp(other) == 0 or np.ptp(one) == 0:
        return False
    a, b = one - one.mean(), other - other.mean()
    with np.errstate(all="ignore"):
        return bool(abs(a @ b) >= (1 - 1e-10) * np.linalg.norm(a) * np.linalg.norm(b))


def views(array):
    """Yield an array, its first and last members, sums and means along each axis."""
    yield array
    for axis in range(array.ndim):
        if array.shape[axis] > 1:
            yield from (array.take(0, axis), array.take(-1, axis), array.sum(axis), array.mean(axis))
    if array.ndim > 1:
        yield from (array.sum(), array.mean())


def expected_by(homework, question, case, outputs):
    """Return the arrays that `verify` compares the outputs with."""
    hidden, expected = module(homework / "hidden.py"), []

    def recorded(outputs, name, value, **more):
        expected.append(np.asarray(value))
        return match(outputs, name, value, **more)

    keywords = {"weights": verify.read_weights(weights_of(homework, question))} if question.weights else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hidden, "match", recorded, raising=False)
        arrays = {name: verify.read_npy(data) for name, data in outputs.items()}
        for name in CHANGED, TENSORS:
            arrays.pop(name, None)
        question.verify(case, arrays, **keywords)
    return expected


def leaks(homework, question, cases, names):
    """Return which outputs and expected values of a question the frames or inputs of its cases hold."""
    sent = json.loads(channel.encode_cases({question.id: cases}))[question.id]
    inputs = [
        array.astype(np.float64) for case in cases for array in case.inputs.values() if array.size <= SMALL
    ]
    found = []
    for number, case in enumerate(cases):
        if not case.driver:
            continue
        recorder = Recorder(answer_files(homework), names)
        sys.setprofile(recorder)
        try:
            frames = inside.run_question(question.id, [sent[number]], dict(names))
        finally:
            sys.setprofile(None)
        (outputs,) = verify.outputs_of(question.id, 1, dict(channel.frames_of(bytearray(frames))))
        assert outputs, f"{question.id}: {frames[:200]}"
        needed = [verify.read_npy(data) for data in outputs.values()]
        needed += expected_by(homework, question, case, outputs)
        known = {array.tobytes() for array in recorder.given}
        candidates = {array.tobytes(): array for array in [*inputs, *recorder.around] if array.size}
        candidates = [
            array for data, array in candidates.items() if data not in known and np.isfinite(array).all()
        ]
        handed = [
            array.ravel() for array in recorder.given if array.size <= SMALL and np.isfinite(array).all()
        ]
        for value in needed:
            shape, value = value.shape, np.ravel(value).astype(np.float64)
            if value.size > SMALL or not np.isfinite(value).all() or trivial(value):
                continue
            if any(one.size == value.size and same_but_for_scale(value, one) for one in handed):
                continue  # the task hands it over
            for array in candidates:
                if any(
                    view.size == value.size and same_but_for_scale(value, view.ravel())
                    for view in views(array)
                ):
                    found.append(f"case {number}: {shape} in an array of shape {array.shape}")
                    break
    return found


@each
def test_no_driver_and_no_input_holds_what_is_right(homework):
    for question in questions(homework):
        if not question.manual:
            cases = question.cases(np.random.default_rng(5))
            assert not leaks(homework, question, cases, shared_names(homework)), question.id


def plant(**more):
    """Return a case of `probe`, a question whose function doubles its argument."""
    return Case(more.pop("driver", call("probe", "x")), {"x": np.random.default_rng(0).normal(size=9)} | more)


SQUARE = np.random.default_rng(0).normal(size=9) ** 2
HELPER = "def _right(_x):\n    _y = _x ** 2\n    return _y.sum()\n"
PLANTS = {
    "an input is the expected value": plant(y=SQUARE),
    "affine": plant(y=3 - 2 * SQUARE),
    "the last row": plant(table=np.stack([np.ones(9), SQUARE])),
    "a sum": plant(parts=np.stack([SQUARE - 1, np.ones(9)])),
    "the driver computes it": plant(driver="_y = inputs['x'] ** 2\noutputs['0'] = probe(inputs['x'])"),
    "a function of the driver does": plant(
        driver=HELPER + "_right(inputs['x'])\noutputs['0'] = probe(inputs['x'])"
    ),
    "a closure of the driver holds it": plant(
        driver="def _make(_y):\n    return lambda: _y\n"
        "_f = _make(inputs['x'] ** 2)\noutputs['0'] = probe(inputs['x'])"
    ),
}


@pytest.mark.parametrize("name", [*PLANTS, "kept"])
def test_a_planted_expected_value_is_found(name):
    homework = HOMEWORKS[0]
    names = dict(shared_names(homework))
    exec(compile("def probe(x):\n    return x ** 2", next(iter(answer_files(homework))), "exec"), names)
    case = PLANTS[name] if name in PLANTS else Case(call("probe", "x"), plant().inputs, kept={"y": SQUARE})
    question = Question("q9", 1, lambda rng: [case], lambda case, outputs: match(outputs, "0", SQUARE))
    assert bool(leaks(homework, question, [case], names)) == (name in PLANTS)


# ---- what comes out ----------------------------------------------------------------------------------------

PAYLOADS = {  # ways to bring a number k out of the sandbox by what a message says of an output
    "length": lambda value, k: np.resize(value, 40 + k),
    "dimensions": lambda value, k: np.resize(value, (1,) * (4 + k)),
    "scale": lambda value, k: value * (1.5 + k / 8),
    "count": lambda value, k: np.where(np.arange(value.size) < k, value.ravel() + 1000, value.ravel()),
    "not finite": lambda value, k: np.where(np.arange(value.size) < k, np.nan, value.ravel()),
    "constant": lambda value, k: np.full_like(value, 7 + k, dtype=np.float64),
}


def with_payload(value, kind, k):
    """Return an output that carries k."""
    value = value if value.dtype.kind == "f" else value.astype(np.float64)
    carried = PAYLOADS[kind](value, k)
    return carried.reshape(value.shape) if kind in ("count", "not finite") else carried


def speaking(messages):
    """Return the messages that differ in nothing but numbers: those say something of what came back."""
    by_words = {}
    for message in messages:
        by_words.setdefault(re.sub(r"[-+]?\d[\d.,e+-]*", "#", message), set()).add(message)
    return [sorted(group) for group in by_words.values() if len(group) > 1]


@each
def test_no_message_carries_what_the_students_code_chose(homework):
    for question in questions(homework):
        cases = [] if question.manual else [c for c in question.cases(np.random.default_rng(6)) if c.driver]
        if not cases:
            continue
        weights = weights_of(homework, question)
        sent = json.loads(channel.encode_cases({question.id: cases[:1]}))[question.id]
        frames = inside.run_question(question.id, sent, dict(shared_names(homework)))
        frames = dict(channel.frames_of(bytearray(frames)))
        for name in list(frames)[:6]:
            value = verify.read_npy(frames[name])
            for kind in PAYLOADS:
                spoiled = [frames | {name: inside.as_npy(with_payload(value, kind, k))} for k in (1, 2, 3)]
                messages = [verify.judge(question, cases[:1], one, weights)[1] for one in spoiled]
                assert not speaking(messages), f"{question.id}, {name}, {kind}"


def test_a_message_with_numbers_of_what_came_back_is_noticed():
    def verify_loudly(case, outputs):
        raise Wrong(f"{len(outputs['0'])} numbers came back")

    question = Question("q9", 1, lambda rng: [plant()], verify_loudly)
    messages = [
        verify.judge(question, [plant()], {"q9/0/0": inside.as_npy(np.ones(k))}, None)[1] for k in (1, 2, 3)
    ]
    assert speaking(messages) and not speaking(["output 0 is wrong", "output 0 is wrong", "another"])


@pytest.mark.parametrize("kind", ["<f4", ">f4", "S5", "V9", "c8", "g"])
def test_types_are_named_by_words_from_a_list(kind):
    array = np.zeros(3, dtype=kind)
    for judge in (
        lambda: same_type({"0": array}, np.dtype("float64"), "0"),
        lambda: take({"0": array}, "0", (9,)),
    ):
        with pytest.raises(Wrong) as wrong:
            judge()
        said = str(wrong.value).replace("float64", "").replace("float32", "").replace("output 0", "")
        assert not re.search("[<>=|SVcg]\\d|f4|complex|longdouble|float|\\(3,", said), said


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({}, "the KL: nothing was returned"),
        ({"kl": np.zeros(3, dtype="c8")}, "the KL: no real numbers"),
        ({"kl": np.zeros(4)}, r"the KL: another shape, the task asks for \(3,\)"),
        ({"kl": np.full(3, np.nan)}, "the KL: all values not finite"),
        ({"kl": np.zeros(3)}, "the KL: all values wrong"),
    ],
)
def test_a_message_calls_an_output_as_the_task_does(outputs, said):
    with pytest.raises(Wrong, match=f"^{said}$"):
        match(outputs, "kl", np.ones(3), what="the KL")
