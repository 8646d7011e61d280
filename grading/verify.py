"""Judge what came back from the sandbox, in the grader's own process, against references computed here."""

import builtins
import io
import json
import math
import traceback
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from grading.questions import CHANGED, TENSORS, Case, Question, Wrong

ARRAY_LIMIT = 32 << 20  # bytes of one array


def read_npy(data: bytes) -> np.ndarray:
    """Return the array in the bytes of an .npy file, or raise Wrong.

    Only real numbers pass, never objects; nothing is allocated that is not in the bytes already.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception:  # the reader of headers raises all kinds, tokenize's errors among them
        raise Wrong("an output is not an array of numbers") from None
    if dtype.kind not in "biuf" or dtype.itemsize > 16:
        raise Wrong("an output holds no real numbers")
    values = memoryview(data)[file.tell() :]
    size = math.prod(shape) * dtype.itemsize
    lengths = all(type(length) is int and length >= 0 for length in shape) and len(shape) <= 32
    if not lengths or size > ARRAY_LIMIT or size != len(values):
        raise Wrong("an output is too large, or its shape is not that of what was sent")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if fortran else "C").copy()


def read_weights(data: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file, or raise Wrong."""
    try:
        return safetensors.numpy.load(data)
    except Exception as error:  # of the safetensors library, or a type that NumPy lacks
        raise Wrong(f"the weights cannot be read ({type(error).__name__}): save float32 tensors") from None


def outputs_of(question: str, cases: int, frames: Mapping[str, bytes]) -> list[dict[str, bytes]]:
    """Sort the frames of one question by case."""
    outputs: list[dict[str, bytes]] = [{} for _ in range(cases)]
    for name, data in frames.items():
        parts = name.split("/", 2)
        if len(parts) == 3 and parts[0] == question and parts[1] in map(str, range(cases)):
            outputs[int(parts[1])][parts[2]] = data
    return outputs


class Verdict(NamedTuple):
    """A question's status and message; for teachers, what was measured, and an error of verify itself."""

    status: str
    message: str
    measured: str = ""
    trace: str = ""


def judge(
    question: Question, cases: list[Case], frames: Mapping[str, bytes], weights: bytes | None
) -> Verdict:
    """Judge what came back for a question, and the file that it asks for."""
    keywords = {}
    try:
        if question.weights is not None:
            if weights is None:
                return Verdict("missing", f"no file {question.weights} beside the notebook")
            keywords["weights"] = read_weights(weights)
        if question.id in frames:
            return Verdict(*_why_no_output(frames[question.id], cases))
        for case, sent in zip(cases, outputs_of(question.id, len(cases), frames), strict=True):
            about = f" ({case.about})" if case.about else ""
            if case.driver and not sent:
                ended = "the code ended the process or returned nothing"
                return Verdict("error", f"nothing came back{about}: {ended}")
            try:
                outputs = {name: read_npy(data) for name, data in sent.items()}
                if np.any(outputs.pop(CHANGED, False)):
                    raise Wrong("an argument was changed; an answer leaves what it is given as it was")
                if not np.all(outputs.pop(TENSORS, True)):
                    raise Wrong("a tensor was asked for, and something else came back")
                question.verify(case, outputs, **keywords)
            except Wrong as wrong:
                return Verdict("wrong", f"{wrong}{about}", wrong.measured)
            except Exception:  # an output that verify did not foresee
                said = f"what was returned could not be compared{about}"
                return Verdict("wrong", said, trace=traceback.format_exc())
    except Wrong as wrong:
        return Verdict("wrong", str(wrong))
    return Verdict("ok", "passed")


def _why_no_output(data: bytes, cases: list[Case]) -> tuple[str, str]:
    """Read why a question sent no outputs; its words are not repeated, for they may hold a hidden input."""
    try:
        reason = json.loads(data[:1000])
        if reason.get("timeout"):
            return "timeout", "the code did not finish in time"
        kind, number = str(reason["error"]), int(reason["case"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return "error", "what came back could not be read"
    known = isinstance(getattr(builtins, kind, None), type)  # a name of the student's own could hold anything
    about = f" ({cases[number].about})" if 0 <= number < len(cases) and cases[number].about else ""
    return "error", f"the code raised {kind if known else 'an error'}{about}"
