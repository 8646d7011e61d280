"""Every homework: student version, points, reference answers, wrong answers, visible checks.

Answers are judged as the grader judges them, but in this process, which is quick; they are our own. One batch
goes through the sandbox as well.
"""

import ast
import base64
import contextlib
import csv
import importlib.util
import io
import json
import re
import shutil
import sys
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
import safetensors.numpy
import torch
from scipy import integrate, stats

from grading import inside, verify
from grading.__main__ import main
from grading.release import TEXT_STUB, answer_name, release, student_version

ROOT = Path(__file__).resolve().parents[1]
HOMEWORKS = sorted(
    path for path in (ROOT / "homeworks").glob("homework*") if list(path.glob("*.solution.ipynb"))
)
POINTS = {"homework1": 13, "homework2": 15, "homework3": 13, "homework4": 14, "homework5": 13}
SEEDS = 3

each = pytest.mark.parametrize("homework", HOMEWORKS, ids=lambda path: path.name)


@cache
def module(path):
    """Import hidden.py or mutants.py of one homework under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    loaded = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@cache
def solution(homework):
    return nbformat.read(next(homework.glob("*.solution.ipynb")), as_version=4)


def questions(homework):
    return module(homework / "hidden.py").QUESTIONS


def mutants(homework):
    return module(homework / "mutants.py").MUTANTS


def marks(cell):
    return cell.metadata.get("nbgrader", {})


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def written_answers(notebook):
    """Return the answers in words, which are marked by hand."""
    return [cell for cell in notebook.cells if cell.cell_type == "markdown" and marks(cell).get("solution")]


def checks(homework):
    """Return the source of the visible checks by question."""
    return {
        marks(cell).grade_id.removeprefix("check_"): cell.source
        for cell in code_cells(solution(homework))
        if marks(cell).get("grade") and not marks(cell).get("solution")
    }


@cache
def shared_names(homework):
    """Run what a notebook gives and the reference answers, but neither checks nor trainings."""
    torch.set_num_threads(1)
    names = {"__name__": "__main__"}
    for cell in code_cells(solution(homework)):
        if not marks(cell).get("grade") and "raises-exception" not in cell.metadata.get("tags", []):
            exec(compile(cell.source, cell.id, "exec"), names)
    return names


def frames_of(data):
    """Return what the sandbox would send, by name."""
    stream, frames = io.BytesIO(data), {}
    while stream.tell() < len(data):
        name, payload = inside.unpack(stream)
        frames[name] = payload
    return frames


def judged(homework, question, seed, answer="", weights=None):
    """Return (status, message) of a question on the cases of a seed, with its answer replaced."""
    names = dict(shared_names(homework))
    exec(answer, names)
    cases = question.cases(np.random.default_rng(seed))
    sent = [
        {
            "driver": case.driver,
            "inputs": {n: base64.b64encode(inside.as_npy(v)) for n, v in case.inputs.items()},
        }
        for case in cases
    ]
    frames = frames_of(inside.run_question(question.id, sent, names))
    status, message, trace = verify.judge(question, cases, frames, weights)
    assert not trace, trace
    return status, message


def weights_of(homework, question):
    return (homework / question.weights).read_bytes() if question.weights else None


@each
def test_student_version_is_current(homework):
    assert release(homework, check=True), f"run: python -m grading release {homework.relative_to(ROOT)}"


@each
def test_points_and_names_agree(homework):
    blank = student_version(solution(homework))
    points = {question.id: question.points for question in questions(homework)}
    written = {marks(cell).grade_id for cell in written_answers(blank)}
    answers = written | {name for cell in code_cells(blank) if (name := answer_name(cell))}
    shown = {
        marks(cell).grade_id.removeprefix("check_"): marks(cell).points
        for cell in blank.cells
        if marks(cell).get("grade")
    }
    assert sum(points.values()) == POINTS[homework.name]
    assert {question.id for question in questions(homework) if any(map(question.owns, answers))} == set(
        points
    )
    assert {name: shown[name] for name in points} == points
    assert {question.id for question in questions(homework) if question.manual} == written


@each
def test_written_answers_are_blank_and_have_a_rubric_of_their_points(homework):
    for cell in written_answers(solution(homework)):
        lines = cell.source.strip().split("\n")
        assert "### BEGIN SOLUTION" in lines[0] and "### END SOLUTION" in lines[-1], cell.id
        assert f"**Rubric, {marks(cell).points:g} point" in cell.source, cell.id
    for cell in written_answers(student_version(solution(homework))):
        assert cell.source == TEXT_STUB, cell.id


@each
def test_student_version_holds_no_solution(homework):
    answers = [cell.source for cell in code_cells(solution(homework)) if marks(cell).get("solution")]
    pattern = re.compile(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", re.DOTALL)
    hidden = {
        line.strip() for source in answers for part in pattern.findall(source) for line in part.split("\n")
    }
    blank = [cell for cell in code_cells(student_version(solution(homework))) if marks(cell).get("solution")]
    assert hidden and all(ast.parse(cell.source) for cell in blank)
    for cell in blank:
        kept = {line.strip() for line in cell.source.split("\n")}
        assert not {line for line in kept & hidden if len(line) > 12}, cell.id


@each
def test_blank_runs_to_its_end(homework, tmp_path, monkeypatch):
    """Every check of a blank raises, and nothing raises that is not tagged for it."""
    monkeypatch.chdir(tmp_path)  # where no trained weights are
    names, raised = {"__name__": "__main__"}, set()
    for cell in code_cells(student_version(solution(homework))):
        try:
            exec(compile(cell.source, cell.id, "exec"), names)
        except Exception:
            assert "raises-exception" in cell.metadata.get("tags", []), cell.id
            raised.add(marks(cell).grade_id)
    assert {f"check_{name}" for name in checks(homework)} <= raised


@each
@pytest.mark.parametrize("seed", range(SEEDS))
def test_reference_is_right(homework, seed):
    for question in questions(homework):
        if not question.manual:
            verdict = judged(homework, question, seed, weights=weights_of(homework, question))
            assert verdict == ("ok", "passed"), f"{question.id}: {verdict}"


def test_wrong_solutions_are_many():
    assert all(len(mutants(homework)) >= 8 for homework in HOMEWORKS)


@pytest.mark.parametrize(
    ("homework", "name"),
    [(homework, name) for homework in HOMEWORKS for name in mutants(homework)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_wrong_solution_loses_its_question(homework, name):
    mutant = mutants(homework)[name]
    question = next(question for question in questions(homework) if question.owns(mutant["cell"]))
    assert question.id == mutant["question"]
    status, message = judged(homework, question, 0, answer=mutant["source"])
    assert status in ("wrong", "error"), f"{name} was not noticed"
    assert message and "could not be compared" not in message, message


@each
def test_wrong_solutions_lose_no_other_question(homework):
    """No driver calls an answer of another question."""
    for question in questions(homework):
        mine = {name for name, owner in defined(homework) if owner == question.id}
        others = {name for name, owner in defined(homework) if owner != question.id}
        for case in question.cases(np.random.default_rng(0)) if not question.manual else ():
            called = {node.id for node in ast.walk(ast.parse(case.driver)) if isinstance(node, ast.Name)}
            stored = {
                n.id
                for n in ast.walk(ast.parse(case.driver))
                if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
            assert not case.driver or called & mine, f"{question.id} calls no answer of its own"
            assert not (called - stored) & others, f"{question.id} depends on {(called - stored) & others}"


@cache
def defined(homework):
    """Return (name, question) of every function and class of the answers."""
    return {
        (
            node.name,
            next(question.id for question in questions(homework) if question.owns(marks(cell).grade_id)),
        )
        for cell in code_cells(solution(homework))
        if marks(cell).get("solution")
        for node in ast.parse(cell.source).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


@each
def test_visible_checks_accept_the_reference_alone(homework):
    """A check passes with the answers of all other questions gone, and raises while its own is blank."""
    blank = {
        marks(c).grade_id: c.source
        for c in code_cells(student_version(solution(homework)))
        if marks(c).get("solution")
    }
    for question in questions(homework):
        if question.weights or question.manual:
            continue  # a trained model is checked by its file
        own, others = {}, {}
        for answer, source in blank.items():
            (own if question.owns(answer) else others)[answer] = source
        names = dict(shared_names(homework))
        for source in others.values():
            exec(source, names)
        with contextlib.redirect_stdout(io.StringIO()):
            exec(checks(homework)[question.id], dict(names))
        for source in own.values():
            exec(source, names)
        with pytest.raises(Exception), contextlib.redirect_stdout(io.StringIO()):  # noqa: B017
            exec(checks(homework)[question.id], dict(names))


@each
def test_most_wrong_solutions_fail_the_visible_check(homework):
    noticed = 0
    for mutant in mutants(homework).values():
        names = dict(shared_names(homework))
        exec(mutant["source"], names)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(checks(homework)[mutant["question"]], names)
        except Exception:
            noticed += 1
    assert noticed >= 0.8 * len(mutants(homework))


@pytest.mark.slow
@each
def test_in_the_sandbox(homework, tmp_path):
    """The reference gets all points that are not given by hand, the blank none, each in the real sandbox."""
    student = next(path for path in homework.glob("hw*.ipynb") if ".solution" not in path.name)
    for name, source in (("reference", next(homework.glob("*.solution.ipynb"))), ("blank", student)):
        folder = tmp_path / "submissions" / name
        folder.mkdir(parents=True)
        shutil.copy(source, folder / student.name)
    for question in questions(homework):
        if question.weights:
            shutil.copy(homework / question.weights, tmp_path / "submissions/reference")
    out = tmp_path / "graded"
    assert (
        main(["grade", str(homework), str(tmp_path / "submissions"), "--out", str(out), "--seed", "1"]) == 0
    )
    rows = {row["student"]: row for row in csv.DictReader((out / "grades.csv").open())}
    by_hand = sum(question.points for question in questions(homework) if question.manual)
    assert float(rows["reference"]["score"]) + by_hand == POINTS[homework.name] == float(rows["blank"]["max"])
    assert float(rows["blank"]["score"]) == 0
    for name in rows:
        results = json.loads((out / name / "results.json").read_text())["questions"]
        for question in questions(homework):
            right = "manual" if question.manual else "ok"
            assert results[question.id]["status"] == (right if name == "reference" else "blank")


# ---- homework 1 --------------------------------------------------------------------------------------------

HW1 = ROOT / "homeworks/homework1"
TRAINED = next(question for question in questions(HW1) if question.id == "q3d")


def spoiled(change):
    """Return the bytes of the reference's weights after `change` has worked on them."""
    weights = {name: value.copy() for name, value in safetensors.numpy.load(weights_of(HW1, TRAINED)).items()}
    change(weights)
    return safetensors.numpy.save(weights)


def leak(weights):
    step = module(HW1 / "hidden.py").STEP
    pixel, other = np.argwhere(step[:, None] == step + 1)[0]
    weights["direct"][other, pixel] = 1e-3  # one connection of 614,656, from a later step to an earlier one


def scaled(name, factor):
    return lambda weights: weights.update({name: weights[name] * np.float16(factor)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (leak, "1 paths lead from a pixel"),
        (lambda w: w["direct"].fill(0.01), "paths lead from a pixel"),
        (lambda w: w["bias3"].fill(np.nan), "not finite"),
        (lambda w: w.pop("bias1"), "the file holds tensors named"),
        (lambda w: w.update(weight1=w["weight1"][:100]), "shape"),
        (scaled("weight1", 0), "nats per test image"),
        (scaled("weight3", -1), "nats per test image"),
        (scaled("weight3", 60000), "not finite|nats per test image"),
    ],
)
def test_bad_weights_are_refused(change, said):
    status, message = judged(HW1, TRAINED, 0, weights=spoiled(change))
    assert status == "wrong" and re.search(said, message), message


def test_weights_of_other_float_types_are_read():
    as_single = lambda w: w.update({name: value.astype(np.float32) for name, value in w.items()})  # noqa: E731
    assert judged(HW1, TRAINED, 0, weights=spoiled(as_single))[0] == "ok"
    assert judged(HW1, TRAINED, 0)[0] == "missing"


# Other right ways to answer: none may be refused.
RIGHT1 = {
    "q1a": [
        """
def bin_index(x, low, high, n_bins):
    if ((x < low) | (x > high)).any():
        raise ValueError("outside")
    return torch.bucketize(x, torch.linspace(low, high, n_bins + 1, dtype=x.dtype)[1:-1], right=True)
""",
        """
def bin_index(x, low, high, n_bins):
    index = []
    for value in x.tolist():
        if not low <= value <= high:
            raise ValueError(value)
        index.append(min(int((value - low) / ((high - low) / n_bins)), n_bins - 1))
    return torch.tensor(index)
""",
    ],
    "q1b": [
        """
def nll_and_gradient(theta, first, last):
    value, gradient = 0, torch.zeros_like(theta)
    for a, b in zip(first.tolist(), last.tolist()):
        value = value + theta.logsumexp(0) - theta[a : b + 1].logsumexp(0)
        gradient += theta.softmax(0)
        gradient[a : b + 1] -= theta[a : b + 1].softmax(0)
    return value / len(first), gradient / len(first)
""",
        """
def nll_and_gradient(theta, first, last):
    log_p = theta.double().log_softmax(0)
    place = torch.arange(len(theta)).expand(len(first), -1)
    outside = (place < first.unsqueeze(1)) | (place > last.unsqueeze(1))
    log_mass = log_p.expand_as(place).masked_fill(outside, -math.inf).logsumexp(1, keepdim=True)
    posterior = (log_p - log_mass).masked_fill(outside, -math.inf).exp()
    return -log_mass.mean().to(theta.dtype), (log_p.exp() - posterior.mean(0)).to(theta.dtype)
""",
    ],
    "q1c": [
        """
def fit_histogram(first, last, n_bins, nll_and_gradient, *, steps, batch_size, learning_rate, generator):
    theta, history, left = torch.zeros(n_bins), torch.empty(steps), torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if len(left) < batch_size:
            left = torch.randperm(len(first), generator=generator)
        batch, left = left[:batch_size], left[batch_size:]
        history[step], gradient = nll_and_gradient(theta, first[batch], last[batch])
        theta -= learning_rate * gradient
    return theta, history
""",
        """
def fit_histogram(first, last, n_bins, nll_and_gradient, *, steps, batch_size, learning_rate, generator):
    theta, history = torch.zeros(n_bins), []
    for step in range(steps):
        batch = torch.randperm(len(first), generator=generator)[:batch_size]
        value, gradient = nll_and_gradient(theta, first[batch], last[batch])
        history.append(float(value))
        theta = theta - learning_rate / (1 + 3 * step / steps) * gradient
    return theta, torch.tensor(history)
""",
    ],
    "q2a": [
        """
def made_masks(order, n_values, hidden_sizes):
    m = len(order)
    rank = torch.empty(m, dtype=torch.int64)
    rank[order] = torch.arange(m)
    degrees = [rank + 1, *(torch.randint(1, m, (size,)) for size in hidden_sizes)]
    masks = [above[:, None] >= below for below, above in zip(degrees, degrees[1:])]
    masks[0] = masks[0].repeat_interleave(n_values, dim=1)
    return masks + [(rank[:, None] + 1 > degrees[-1]).repeat_interleave(n_values, dim=0)]
""",
        """
def made_masks(order, n_values, hidden_sizes):
    order, masks = order.tolist(), []
    units = [order.index(i) for i in range(len(order)) for _ in range(n_values)]
    below = units
    for size in hidden_sizes:
        above = [k * (len(order) - 1) // size for k in range(size)]
        masks.append(torch.tensor([[b <= a for b in below] for a in above]))
        below = above
    return tuple(masks) + (torch.tensor([[b < a for b in below] for a in units]),)
""",
    ],
    "q2b": [
        """
class CategoricalMADE(nn.Module):
    def __init__(self, masks, n_values):
        super().__init__()
        self.masks, self.n_values = [mask.float() for mask in masks], n_values
        self.m = masks[-1].shape[0] // n_values
        self.weights = nn.ParameterList([torch.randn(mask.shape) / mask.shape[1] ** 0.5 for mask in masks])
        self.biases = nn.ParameterList([torch.zeros(len(mask)) for mask in masks])
    def forward(self, x):
        h = torch.eye(self.n_values, dtype=self.weights[0].dtype)[x].reshape(len(x), -1)
        for mask, weight, bias in zip(self.masks[:-1], self.weights, self.biases):
            h = torch.relu(h @ (mask * weight).T + bias)
        h = h @ (self.masks[-1] * self.weights[-1]).T + self.biases[-1]
        return h.reshape(len(x), self.m, self.n_values).permute(0, 2, 1)
    def log_prob(self, x):
        return torch.distributions.Categorical(logits=self(x).transpose(1, 2)).log_prob(x).sum(-1)
""",
    ],
    "q2c": [
        """
def probability_table(log_probs, n_values):
    table = torch.zeros(n_values, n_values, dtype=torch.float64)
    for a in range(n_values):
        for b in range(n_values):
            for log_prob in log_probs:
                table[a, b] += log_prob(torch.tensor([[a, b]])).detach().double().exp()[0] / len(log_probs)
    return table
""",
        """
@torch.no_grad()
def probability_table(log_probs, n_values):
    values = torch.arange(n_values)
    grid = torch.stack(torch.meshgrid(values, values, indexing="ij"), -1).reshape(-1, 2)
    logs = torch.stack([log_prob(grid) for log_prob in log_probs]).logsumexp(0) - math.log(len(log_probs))
    return logs.exp().unflatten(0, (n_values, n_values))
""",
    ],
    "q2d": [
        """
@torch.no_grad()
def sample(logits, order, n, n_values, generator):
    x = torch.randint(n_values, (n, len(order)), generator=generator)
    for i in order:
        gumbel = -(-torch.rand(n, n_values, generator=generator).clamp(min=1e-30).log()).log()
        x[:, i] = (logits(x)[:, :, i] + gumbel).argmax(1)
    return x
""",
        """
def sample(logits, order, n, n_values, generator):
    x = torch.full((n, len(order)), n_values - 1)
    for i in order.tolist():
        cumulative = logits(x).double().softmax(1)[..., i].cumsum(1)
        u = torch.rand(n, 1, generator=generator, dtype=torch.float64)
        x[:, i] = (u > cumulative).sum(1).clamp(max=n_values - 1)
    return x
""",
    ],
    "q3a": [
        """
def step_masks(step, hidden_sizes):
    last = step.max().item()
    one, two = (torch.linspace(0, last - 1, size).round() for size in hidden_sizes)
    hidden = [one[:, None] >= step[None], two[:, None] >= one[None]]
    return [*hidden, step[:, None] > two[None], step[:, None] > step[None]]
""",
        """
def step_masks(step, hidden_sizes):
    last = int(step.max())
    every = torch.arange(1, last + 1)
    one, two = (torch.cat([every, torch.randint(1, last + 1, (size - last,))]) for size in hidden_sizes)
    rank = step + 1
    return one[:, None] >= rank, two[:, None] >= one, rank[:, None] > two, rank[:, None] > rank
""",
    ],
    "q3b": [
        """
def nll_by_step(logits, x, step):
    log_p = torch.where(x == 1, F.logsigmoid(logits), F.logsigmoid(-logits))
    return torch.stack([-log_p[:, step == t].sum(1).mean() for t in range(step.max() + 1)])
""",
        """
def nll_by_step(logits, x, step):
    terms = F.softplus(logits.double()) - x * logits
    return (terms @ F.one_hot(step).double()).mean(0)
""",
    ],
    "q3c": [
        """
@torch.no_grad()
def complete(logits, x, step, n_known, generator):
    x = torch.where(step < n_known, x, 0.0)
    for t in range(n_known, int(step.max()) + 1):
        p = torch.sigmoid(logits(x))
        x = torch.where(step == t, (torch.rand(x.shape, generator=generator) < p).to(x.dtype), x)
    return x
""",
    ],
}


# ---- homework 2 --------------------------------------------------------------------------------------------

HW2 = ROOT / "homeworks/homework2"

RIGHT2 = {
    "q1b": [
        """
def path_counts(degrees, m):
    counts = torch.zeros(m, m, dtype=torch.int64)
    often = torch.bincount(degrees, minlength=m + 1)
    for degree in range(1, m):
        counts[degree:, :degree] += often[degree]
    return counts
""",
        """
def path_counts(degrees, m):
    place = torch.arange(1, m + 1)
    values, often = degrees.unique(return_counts=True)
    into, out = (values[:, None] >= place).long(), (place[:, None] > values).long()
    return (out * often) @ into
""",
    ],
    "q1c": [
        """
def deep_path_counts(degrees, m):
    counts = np.array([[int(i > a) for a in degrees[-1].tolist()] for i in range(1, m + 1)], dtype=object)
    below = [list(range(1, m + 1)), *[layer.tolist() for layer in degrees]]
    for k in reversed(range(len(degrees))):
        mask = np.array([[int(a >= b) for b in below[k]] for a in below[k + 1]], dtype=object)
        counts = counts.dot(mask)
    return torch.tensor(counts.tolist(), dtype=torch.int64)
""",
    ],
    "q2b": [
        """
def head_sizes(width, height, channels, values, components):
    shared = components + 2 * components * channels + sum(range(channels)) * components
    return tuple(width * height * n for n in (channels * values, 3 * channels * components, shared))


def crossover(channels, values):
    answer = []
    for head in (1, 2):
        below, above = 0, 1
        while head_sizes(1, 1, channels, values, above)[head] <= channels * values:
            above *= 2
        while above - below > 1:
            middle = (above + below) // 2
            if head_sizes(1, 1, channels, values, middle)[head] > channels * values:
                above = middle
            else:
                below = middle
        answer.append(above)
    return tuple(answer)
""",
    ],
    "q3b": [
        """
def gaussian_kl(mean_1, covariance_1, mean_2, covariance_2):
    for covariance in (covariance_1, covariance_2):
        if not (torch.linalg.eigvalsh(covariance) > 0).all():
            raise ValueError("not positive definite")
    shift, inverse = (mean_1 - mean_2).unsqueeze(-1), torch.linalg.inv(covariance_2)
    logs = torch.linalg.slogdet(covariance_2)[1] - torch.linalg.slogdet(covariance_1)[1]
    trace = (inverse @ covariance_1).diagonal(dim1=-2, dim2=-1).sum(-1)
    return 0.5 * (trace + (shift.mT @ inverse @ shift)[..., 0, 0] - mean_1.shape[-1] + logs)
""",
        """
def gaussian_kl(mean_1, covariance_1, mean_2, covariance_2):
    pair = []
    for mean, covariance in ((mean_1, covariance_1), (mean_2, covariance_2)):
        try:
            factor = torch.linalg.cholesky(covariance)
            pair.append(torch.distributions.MultivariateNormal(mean, scale_tril=factor))
        except RuntimeError as error:
            raise ValueError(str(error)) from None
    return torch.distributions.kl_divergence(*pair)
""",
    ],
    "q4b": [
        """
def score_gradient(mean, log_std, log_joint, z):
    parameters = [value.expand_as(z).clone().requires_grad_() for value in (mean, log_std)]
    log_q = torch.distributions.Normal(parameters[0], parameters[1].exp()).log_prob(z).sum(1)
    scores = torch.autograd.grad(log_q.sum(), parameters)
    weight = (log_joint(z) - log_q.detach())[:, None]
    return tuple(weight * score for score in scores)
""",
        """
def score_gradient(mean, log_std, log_joint, z):
    std = log_std.exp()
    rows = []
    for point in z:  # the entropy in closed form; a constant baseline
        weight = log_joint(point[None])[0] + 40
        rows.append([weight * (point - mean) / std**2, weight * (((point - mean) / std) ** 2 - 1) + 1])
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
""",
        """
def score_gradient(mean, log_std, log_joint, z):
    noise = (z - mean) / log_std.exp()  # its own summand of log q for every score: others average to 0
    weight = log_joint(z)[:, None] + log_std + 0.5 * noise**2
    return weight * noise / log_std.exp(), weight * (noise**2 - 1)
""",
    ],
    "q4c": [
        """
def score_variance(mean, std, level, curvature, target):
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    e, w = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    part = -0.5 * curvature[:, None] * (mean[:, None] + std[:, None] * e - target[:, None]) ** 2
    first, spread = part @ w, (part - (part @ w)[:, None]) ** 2 @ w
    own = part - first[:, None] + level + first.sum()
    total = own.square() @ (w * e**2) + (spread.sum() - spread)
    return (total - (part @ (w * e)) ** 2) / std**2
""",
    ],
    "q5b": [
        """
def alpha_divergence(log_p, log_q, alpha):
    p, q = log_p.exp(), log_q.exp()
    if abs(alpha - 1) < 1e-8:
        return (p * (log_p - log_q)).sum(-1)
    if abs(alpha + 1) < 1e-8:
        return (q * (log_q - log_p)).sum(-1)
    integral = ((1 + alpha) / 2 * log_p + (1 - alpha) / 2 * log_q).exp().sum(-1)
    return 4 / ((1 - alpha) * (1 + alpha)) * (1 - integral)
""",
        """
def alpha_divergence(log_p, log_q, alpha):
    def near_one(log_p, log_q, eps):
        log_t = log_q - log_p
        return -(log_p.exp() * (log_t + eps * log_t**2 / 2 + eps**2 * log_t**3 / 6)).sum(-1) / (1 - eps)
    if abs(abs(alpha) - 1) < 3e-6:
        pair = (log_p, log_q) if alpha > 0 else (log_q, log_p)
        return near_one(*pair, (1 - abs(alpha)) / 2)
    p, q = log_p.exp(), log_q.exp()
    return 4 / (1 - alpha**2) * (1 - (p ** ((1 + alpha) / 2) * q ** ((1 - alpha) / 2)).sum(-1))
""",
    ],
    "q5c": [
        """
def gaussian_alpha_divergence(mean_p, std_p, mean_q, std_q, alpha):
    v, u, square = std_p**2, std_q**2, (mean_p - mean_q) ** 2
    if abs(alpha - 1) < 1e-8:
        return 0.5 * (v / u - 1 - (v / u).log() + square / u)
    if abs(alpha + 1) < 1e-8:
        return 0.5 * (u / v - 1 - (u / v).log() + square / v)
    a, b = (1 + alpha) / 2, (1 - alpha) / 2
    mixed = a * u + b * v
    log_integral = (b * v.log() + a * u.log() - mixed.log() - a * b * square / mixed) / 2
    return torch.where(mixed > 0, (1 - log_integral.exp()) / (a * b), math.inf)
""",
    ],
}


def test_formulas_of_the_hidden_checks_of_homework_2_hold():
    """The references of q5c against integrals by quadrature, those of q3b against torch."""
    hidden, rng = module(HW2 / "hidden.py"), np.random.default_rng(0)
    for alpha in (-2.1, -0.6, 0.0, 0.3, 1.4):
        mean_p, mean_q = rng.normal(size=2)
        std_p, std_q = rng.uniform(1, 1.25, size=2)
        p, q = stats.norm(mean_p, std_p).logpdf, stats.norm(mean_q, std_q).logpdf
        power = lambda x, a=alpha, p=p, q=q: np.exp((1 + a) / 2 * p(x) + (1 - a) / 2 * q(x))  # noqa: E731
        expected = 4 / (1 - alpha**2) * (1 - integrate.quad(power, -40, 40, limit=500)[0])
        assert hidden.exact_gaussian(mean_p, std_p, mean_q, std_q, alpha) == pytest.approx(expected, rel=1e-6)
    for d, low, high in (1, -2, 2), (2, -2, 2), (5, -1, 1), (8, -1, 2):
        inputs, kl = hidden.exact_pair(rng, d, low, high, (3,))
        given = {name: torch.from_numpy(value) for name, value in inputs.items()}
        first = torch.distributions.MultivariateNormal(given["mean_1"], given["cov_1"])
        second = torch.distributions.MultivariateNormal(given["mean_2"], given["cov_2"])
        assert torch.distributions.kl_divergence(first, second).numpy() == pytest.approx(kl)
        assert (kl > 0.3).all()


# ---- all ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("homework", "question", "number"),
    [
        (homework, name, k)
        for homework, right in ((HW1, RIGHT1), (HW2, RIGHT2))
        for name, sources in right.items()
        for k in range(len(sources))
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_other_right_answers_are_accepted(homework, question, number):
    source = {HW1: RIGHT1, HW2: RIGHT2}[homework][question][number]
    for seed in range(SEEDS):
        which = next(one for one in questions(homework) if one.id == question)
        assert judged(homework, which, seed, answer=source) == ("ok", "passed")
    names = dict(shared_names(homework))
    exec(source, names)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(checks(homework)[question], names)
