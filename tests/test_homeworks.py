"""Every homework: student version, points, reference answers, wrong answers, visible checks.

Answers are judged as the grader judges them, but in this process, which is quick; they are our own. One batch
goes through the sandbox as well.
"""

import ast
import builtins
import contextlib
import csv
import dataclasses
import importlib.util
import io
import itertools
import json
import re
import shutil
import symtable
import sys
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from scipy import integrate, stats

from grading import mutation_score
from grading.__main__ import main
from grading.student import answer_name, student_version, write
from tools import course
from tools.notebooks import TEXT_STUB

ROOT = Path(__file__).resolve().parents[1]
HOMEWORKS = sorted(
    path for path in (ROOT / "homeworks").glob("homework*") if list(path.glob("*.solution.ipynb"))
)
PLAN = {f"homework{number}": one for number, one in enumerate(course.plan()["homework"], start=1)}
SEEDS = 3

each = pytest.mark.parametrize("homework", HOMEWORKS, ids=lambda path: path.name)


@cache
def module(path):
    """Import hidden.py, mutants.py or accepted.py of one homework under a name of its own."""
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


def accepted(homework):
    return module(homework / "accepted.py").ACCEPTED


def nbgrader(cell):
    return cell.metadata.get("nbgrader", {})


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def written_answers(notebook):
    """Return the answers in words, which are marked by hand."""
    return [
        cell for cell in notebook.cells if cell.cell_type == "markdown" and nbgrader(cell).get("solution")
    ]


def checks(homework):
    """Return the source of the visible checks by question."""
    return {
        nbgrader(cell).grade_id.removeprefix("check_"): cell.source
        for cell in code_cells(solution(homework))
        if nbgrader(cell).get("grade") and not nbgrader(cell).get("solution")
    }


@cache
def shared_names(homework):
    """Run what a notebook gives and the reference answers, but neither checks nor trainings."""
    return mutation_score.names_of(next(homework.glob("*.solution.ipynb")))


def judged(homework, question, seed, answer="", weights=None):
    """Return (status, message) of a question on the cases of a seed, with its answer replaced.

    Nothing in the message was measured.
    """
    names = dict(shared_names(homework))
    exec(answer, names)
    cases = question.cases(np.random.default_rng(seed))
    status, message, measured, trace = mutation_score.judged(question, cases, names, weights)
    assert not trace, trace
    assert not set(re.findall(r"\d+\.\d+|nan|inf", measured)) & set(re.split(r"[ ,:]", message))
    return status, message


def weights_of(homework, question):
    return (homework / question.weights).read_bytes() if question.weights else None


@each
def test_student_version_is_current(homework):
    assert write(homework, check=True), f"run: python -m grading student {homework.relative_to(ROOT)}"


@each
def test_points_and_names_agree(homework):
    blank = student_version(solution(homework))
    points = {question.id: question.points for question in questions(homework)}
    written = {nbgrader(cell).grade_id for cell in written_answers(blank)}
    answers = written | {name for cell in code_cells(blank) if (name := answer_name(cell))}
    shown = {
        nbgrader(cell).grade_id.removeprefix("check_"): nbgrader(cell).points
        for cell in blank.cells
        if nbgrader(cell).get("grade")
    }
    assert sum(points.values()) == PLAN[homework.name]["points"]
    assert {one.id for one in questions(homework) if any(map(one.owns, answers))} == set(points)
    assert {name: shown[name] for name in points} == points
    assert {question.id for question in questions(homework) if question.manual} == written


@each
def test_written_answers_are_blank_and_have_a_rubric_of_their_points(homework):
    for cell in written_answers(solution(homework)):
        lines = cell.source.strip().split("\n")
        assert lines[0] == f"<!-- @answer {nbgrader(cell).grade_id} -->", cell.id
        assert "### BEGIN SOLUTION" in lines[1] and "### END SOLUTION" in lines[-1], cell.id
        assert f"**Rubric, {nbgrader(cell).points:g} point" in cell.source, cell.id
    for cell in written_answers(student_version(solution(homework))):
        assert cell.source == f"<!-- @answer {nbgrader(cell).grade_id} -->\n{TEXT_STUB}", cell.id


@each
def test_student_version_holds_no_solution(homework):
    answers = [cell.source for cell in code_cells(solution(homework)) if nbgrader(cell).get("solution")]
    pattern = re.compile(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", re.DOTALL)
    hidden = {
        line.strip() for source in answers for part in pattern.findall(source) for line in part.split("\n")
    }
    blank = [
        cell for cell in code_cells(student_version(solution(homework))) if nbgrader(cell).get("solution")
    ]
    assert hidden and all(ast.parse(cell.source) for cell in blank)
    for cell in blank:
        kept = {line.strip() for line in cell.source.split("\n")}
        assert not {line for line in kept & hidden if len(line) > 12}, cell.id


@each
def test_blank_runs_to_its_end(homework, tmp_path, monkeypatch):
    """Every check of a blank says "not answered yet", and nothing raises that is not tagged for it."""
    monkeypatch.chdir(tmp_path)  # where no trained weights are
    names, raised = {"__name__": "__main__"}, set()
    for cell in code_cells(student_version(solution(homework))):
        try:
            exec(compile(cell.source, cell.id, "exec"), names)
        except Exception as error:
            assert "raises-exception" in cell.metadata.get("tags", []), cell.id
            said = f"{type(error).__name__}: {error}"
            assert said.startswith("NotImplementedError: not answered yet"), f"{cell.id}: {said}"
            raised.add(nbgrader(cell).grade_id)
    assert {f"check_{name}" for name in checks(homework)} <= raised


def scopes(table):
    """Return a table of symbols and all that stand inside it."""
    return [table, *(inner for child in table.get_children() for inner in scopes(child))]


@each
def test_no_cell_reads_what_another_may_not_have_made(homework):
    """Whatever is left blank, no cell that looks at answers ends in a NameError or reads a stale name."""
    made = {*dir(builtins), "__name__"}
    for cell in code_cells(student_version(solution(homework))):
        here, *inner = scopes(symtable.symtable(cell.source, cell.id, "exec"))
        mine = {one.get_name() for one in here.get_symbols() if one.is_assigned() or one.is_imported()}
        read = {one.get_name() for one in here.get_symbols() if one.is_referenced()}
        read |= {one.get_name() for table in inner for one in table.get_symbols() if one.is_global()}
        assert read <= made | mine, (
            f"{cell.id} reads {read - made - mine}, made where an answer may be missing"
        )
        if "raises-exception" not in cell.metadata.get("tags", []):
            made |= mine


@each
def test_points_and_dates_are_those_of_the_course(homework):
    plan = PLAN[homework.name]
    out, deadline = (f"{plan[name]:%B} {plan[name].day}" for name in ("out", "deadline"))
    title = solution(homework).cells[0].source
    assert f" · {plan['points']} points · out {out}, due {deadline}\n" in title


@each
@pytest.mark.parametrize("seed", range(SEEDS))
def test_reference_is_right(homework, seed):
    for question in questions(homework):
        if not question.manual:
            verdict = judged(homework, question, seed, weights=weights_of(homework, question))
            assert verdict == ("ok", "passed"), f"{question.id}: {verdict}"


@pytest.mark.parametrize(
    ("homework", "question", "number"),
    [
        (homework, question, number)
        for homework in HOMEWORKS
        for question, sources in accepted(homework).items()
        for number in range(len(sources))
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_other_right_answers_are_accepted(homework, question, number):
    source = accepted(homework)[question][number]
    for seed in range(SEEDS):
        which = next(one for one in questions(homework) if one.id == question)
        assert judged(homework, which, seed, answer=source) == ("ok", "passed")
    names = dict(shared_names(homework))
    exec(source, names)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(checks(homework)[question], names)


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
    weights = weights_of(homework, question)  # the right file: the function alone has to lose
    status, message = judged(homework, question, 0, answer=mutant["source"], weights=weights)
    assert status in ("wrong", "error"), f"{name} was not noticed"
    assert message and "could not be compared" not in message, message


@each
def test_what_the_course_publishes_is_no_answer(homework):
    """Every question has a wrong solution put together from what is published; it earns half at most.

    A function earns all or nothing, and `test_wrong_solution_loses_its_question` shows that it is nothing.
    """
    tagged = {one["question"] for one in mutants(homework).values() if one.get("tag") == "published"}
    elsewhere = module(homework / "mutants.py").ELSEWHERE
    by_hand = {question.id for question in questions(homework) if question.manual or question.weights}
    assert set(elsewhere) == by_hand and tagged | by_hand == {one.id for one in questions(homework)}
    for question in questions(homework):
        if question.id in elsewhere:
            earned, why = elsewhere[question.id]
            assert 2 * earned <= question.points and why


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
            next(question.id for question in questions(homework) if question.owns(nbgrader(cell).grade_id)),
        )
        for cell in code_cells(solution(homework))
        if nbgrader(cell).get("solution")
        for node in ast.parse(cell.source).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


@each
def test_visible_checks_accept_the_reference_alone(homework):
    """A check passes with the answers of all other questions gone, and raises while its own is blank."""
    blank = {
        nbgrader(c).grade_id: c.source
        for c in code_cells(student_version(solution(homework)))
        if nbgrader(c).get("solution")
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
    assert (
        float(rows["reference"]["score"]) + by_hand
        == PLAN[homework.name]["points"]
        == float(rows["blank"]["max"])
    )
    assert float(rows["blank"]["score"]) == 0
    for name in rows:
        results = json.loads((out / name / "results.json").read_text())["questions"]
        for question in questions(homework):
            right = "manual" if question.manual else "ok"
            assert results[question.id]["status"] == (right if name == "reference" else "blank")


# ---- homework 1 --------------------------------------------------------------------------------------------

HW1 = ROOT / "homeworks/homework1"
TRAINED = next(question for question in questions(HW1) if question.id == "q3d")


def test_masks_drawn_at_random_are_hardly_ever_refused():
    """Layers of 32 m units refused one right answer in 27 by bad luck: those that are tried are wider."""
    hidden, rng, names = module(HW1 / "hidden.py"), np.random.default_rng(0), {"torch": torch}
    exec(accepted(HW1)["q2a"][-1], names)
    torch.manual_seed(0)
    for _ in range(100):
        for case in hidden.masks_cases(rng):
            one = case.inputs
            arguments = one["blocks"].tolist(), one["hidden"].tolist(), int(one["context"])
            masks = names["made_masks"](torch.from_numpy(one["order"]), *arguments[0], *arguments[1:])
            outputs = {str(k): mask.numpy() for k, mask in enumerate(masks)}
            hidden.masks_verify(case, outputs | {"count": np.asarray(len(masks))})


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
        (leak, "paths lead from a pixel"),
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


def test_weights_that_know_the_test_images_by_heart_are_refused(monkeypatch):
    """The right weights, fitted further to 100 test images, of which there are no others here."""
    hidden, names = module(HW1 / "hidden.py"), shared_names(HW1)
    few = {"test": hidden.grey_images("test")[:100], "train": hidden.grey_images("train")}
    monkeypatch.setattr(hidden, "grey_images", few.get)
    monkeypatch.setattr(hidden, "images_of", hidden.images_of.__wrapped__)  # keep none, neither now nor after
    assert judged(HW1, TRAINED, 0, weights=weights_of(HW1, TRAINED))[0] == "ok"
    named = safetensors.torch.load(weights_of(HW1, TRAINED))
    leaves = {name: value.float().requires_grad_() for name, value in named.items()}
    optimizer, rng = torch.optim.Adam(leaves.values(), lr=2e-3), np.random.default_rng(0)
    for _ in range(80):
        x = torch.from_numpy(hidden.camera("test", rng))
        masked = {name: value * (named[name] != 0) for name, value in leaves.items()}
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            names["network"](masked, x), x, reduction="sum"
        )
        optimizer.zero_grad()
        (loss / len(x)).backward()
        optimizer.step()
    fitted = safetensors.torch.save({name: value.detach().contiguous() for name, value in masked.items()})
    status, message = judged(HW1, TRAINED, 0, weights=fitted)
    assert status == "wrong" and "was it fitted to the former?" in message, message


# ---- homework 2 --------------------------------------------------------------------------------------------

HW2 = ROOT / "homeworks/homework2"


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
    for d, rank in (1, 1), (3, 5), (40, 3):
        pair = [hidden.gaussian(rng, (d,), rank, strength=30) for _ in range(2)]
        exact = [
            torch.distributions.MultivariateNormal(
                torch.from_numpy(mean),
                precision_matrix=torch.from_numpy(np.diag(diagonal) + factor @ factor.T),
            )
            for mean, diagonal, factor in pair
        ]
        kl = torch.distributions.kl_divergence(*exact).item()
        assert hidden.low_rank_kl(*pair[0], *pair[1]) == pytest.approx(kl)
    for m, n, context in (2, 9, 1), (9, 70, 3), (9, 70, 8):
        first, last = hidden.units(rng, n, m)
        place = np.arange(1, m + 1)
        hears = (first[:, None] <= place) & (place <= last[:, None])
        feeds = (last[:, None] < place) & (place <= first[:, None] + context)
        product = feeds.T.astype(int) @ hears.astype(int)
        assert np.array_equal(hidden.wide_counts(first, last, m, context), product)
    full = [hidden.covariance_dimension(5, rank) for rank in range(1, 6)]
    assert full == [10, 14, 15, 15, 15]  # 5 + 5 r - r (r - 1) / 2, and no more than 15


# ---- homework 3 --------------------------------------------------------------------------------------------

HW3 = ROOT / "homeworks/homework3"
HW4 = ROOT / "homeworks/homework4"


def test_optima_of_the_hidden_checks_of_homework_3_hold():
    """The best ELBO of q1c against gradients, the leanest code of q1d against a grid of all decoders."""
    hidden, rng = module(HW3 / "hidden.py"), np.random.default_rng(0)
    for case in [*hidden.best_cases(rng), *hidden.best_cases(rng)]:
        covariance, psi = (torch.from_numpy(case.inputs[name]) for name in ("covariance", "psi"))
        d, units = int(case.inputs["d"]), psi.sqrt()
        torch.manual_seed(0)
        W = torch.randn(len(psi), d, dtype=torch.float64, requires_grad=True)  # in units of the noise
        optimizer = torch.optim.LBFGS([W], max_iter=500, line_search_fn="strong_wolfe")

        def loss(W=W, covariance=covariance, units=units):
            model = units[:, None] * (W @ W.T + torch.eye(len(units))) * units
            return (torch.logdet(2 * torch.pi * model) + torch.linalg.solve(model, covariance).trace()) / 2

        def closure(loss=loss, optimizer=optimizer):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        optimizer.step(closure)
        model = units[:, None] * (W @ W.T + torch.eye(len(psi))) * units
        kl = (torch.logdet(model) - psi.log().sum()).item() / 2
        used = int((torch.linalg.eigvalsh(W @ W.T) > 1e-3).sum())
        outputs = {"0": np.asarray(-loss().item()), "1": np.asarray(kl), "2": np.asarray(used)}
        outputs = {name: value.round(5) for name, value in outputs.items()}
        outputs["ints"] = np.array([0, 0, 1])
        with pytest.MonkeyPatch.context() as patch:  # five digits of a numerical optimum
            patch.setattr(
                hidden, "match", lambda *a, **k: verify_close(*a, **k | {"rtol": 1e-4, "atol": 1e-4})
            )
            hidden.best_verify(case, outputs)
    for case in hidden.lean_cases(rng):
        covariance, floor = case.inputs["covariance"], case.inputs["floor"]
        variances, rho = covariance.diagonal(), covariance[0, 1] / np.sqrt(covariance.diagonal().prod())
        taken = floor / variances
        # The share of the first variance that comes from the code, as far as both floors allow.
        share = np.linspace(rho**2 / (1 - taken[1]), 1 - taken[0], 200_001)[1:-1]
        held = (np.log(1 - rho**2) - np.log(1 - share) - np.log(1 - rho**2 / share)) / 2
        least = hidden.least_kl(rho, taken)
        assert held.min() == pytest.approx(least, abs=1e-3) and least < held.min() + 1e-9
        best = share[held.argmin()]
        w = np.sqrt([best, rho**2 / best] * variances) * np.array([1, np.sign(rho)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hidden, "least_kl", lambda rho, taken, least=least: least + 1e-3)  # of the grid
            hidden.lean_verify(case, {"0": w, "1": variances - w**2, "2": held.min()})


def verify_close(outputs, name, expected, *, rtol, atol, what=""):
    assert outputs[name] == pytest.approx(expected, rel=rtol, abs=atol), what


def test_references_of_the_flows_of_homework_3_hold():
    """The locked RealNVP of q3d and the coupling of q3a against autograd."""
    hidden, names = module(HW3 / "hidden.py"), shared_names(HW3)
    flow = names["RealNVP"]().double()
    weights = safetensors.numpy.load(weights_of(HW3, of_the_file(HW3, "q3d")))
    flow.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    y, truth = names["read_sensor"](500, 7)
    with torch.no_grad():
        given = hidden.flow_log_prob(flow.state_dict(), y.double())
        assert torch.allclose(given, flow.log_prob(y.double()), atol=1e-9)
        gap = (truth - given).mean().item()
    assert -0.02 < gap < hidden.FLOW_THRESHOLD
    moon = names["data"].moons().sample(500, seed=7).double().numpy()
    assert np.allclose(moon @ hidden.sensor().T + [300, -120], y, atol=1e-4)

    def noise(y):
        """Return the noise of readings: sampling replaces the noise, and the network maps it back."""
        x = (y - flow.shift) @ flow.matrix.T
        for network in flow.networks:
            kept, moved = x.chunk(2, dim=1)
            raw, shift = network(kept).chunk(2, dim=1)
            x = torch.cat([(2 * torch.tanh(raw / 2)).exp() * moved + shift, kept], dim=1)
        return x

    some = y[:20].double()
    J = torch.autograd.functional.jacobian(lambda y: noise(y).sum(0), some).movedim(1, 0)
    log_normal = torch.from_numpy(stats.norm.logpdf(noise(some).detach().numpy()).sum(1))
    exact = torch.linalg.slogdet(J).logabsdet + log_normal
    assert torch.allclose(given[:20], exact, atol=1e-8)
    torch.manual_seed(0)
    assert torch.allclose(noise(names["sample_readings"](flow, 50)).std(0), torch.ones(2).double(), atol=0.3)
    for case in hidden.coupling_cases(np.random.default_rng(1))[:4]:
        one = {name: torch.from_numpy(value) for name, value in case.inputs.items()}

        def layer(x, one=one):
            rest = x - x @ one["basis"] @ one["basis"].T
            out = torch.tanh(rest @ one["first"].T) @ one["second"].T + one["bias"]
            r, t = out.chunk(2, dim=1)
            return rest + (2 * torch.sigmoid(r) * (x @ one["basis"]) + t) @ one["basis"].T

        J = torch.autograd.functional.jacobian(lambda x: layer(x).sum(0), one["x"]).movedim(1, 0)
        r = torch.from_numpy(hidden.coupling_numbers(case.inputs, case.inputs["x"])[0])
        log_scale = (np.log(2) + torch.nn.functional.logsigmoid(r)).sum(1)
        assert torch.allclose(torch.linalg.slogdet(J).logabsdet, log_scale, atol=1e-8)


def test_a_test_of_normality_accuses_nobody_and_sees_what_it_should():
    hidden = module(HW3 / "hidden.py")
    for seed in range(200):
        rng = np.random.default_rng(seed)
        hidden.standard_normal(rng.normal(size=(rng.integers(300, 4000), rng.integers(1, 7))), "draws")
    white = np.random.default_rng(0).normal(size=(4000, 3))
    turned = white @ np.array([[1, 0.3, 0], [0, 0.95, 0], [0, 0, 1]])
    uniform = np.random.default_rng(1).uniform(-np.sqrt(3), np.sqrt(3), size=(4000, 3))
    for wrong in (1.1 * white, white + 0.2, turned, uniform):
        with pytest.raises(hidden.Wrong):
            hidden.standard_normal(wrong, "draws")


def test_a_test_of_independence_accuses_nobody_and_sees_what_it_should():
    hidden = module(HW3 / "hidden.py")
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = 400 if seed % 2 else 4000
        hidden.independent(rng.normal(size=(n, 3)), "draws")
        share = 0.25 if n == 4000 else 0.75
        weights = np.array([share, 1 - share])
        part = rng.choice(2, size=n, p=weights)
        one = {"logits": np.log(weights), "means": np.zeros((2, 1)), "roots": np.ones((2, 1, 1))}
        one |= {"matrices": np.empty((0, 1, 1)), "shifts": np.empty((0, 1))}
        hidden.judge_draws(one, rng.normal(size=(n, 1)), part, "points")
        with pytest.raises(hidden.Wrong, match="parts"):
            hidden.judge_draws(one, rng.normal(size=(n, 1)), np.zeros_like(part), "points")
    z = np.random.default_rng(0).normal(size=(4000, 1))
    mirrored = np.concatenate([z[:2000], -z[:2000]])
    walk = (z + np.roll(z, 1, axis=0)) / np.sqrt(2)
    for wrong in (np.sort(z, axis=0), mirrored, mirrored[np.r_[:2000, 3999:1999:-1]], walk):
        with pytest.raises(hidden.Wrong):
            hidden.independent(wrong, "draws")


# ---- weights of homeworks 3 and 4 --------------------------------------------------------------------------


def of_the_file(homework, name):
    """Return a question that judges its file only, and calls no training."""
    question = next(one for one in questions(homework) if one.id == name)
    return dataclasses.replace(
        question, cases=lambda rng: [one for one in question.cases(rng) if not one.driver]
    )


@pytest.mark.parametrize(
    ("number", "question", "name", "value", "said"),
    [
        (3, "q2c", "decoder.0.bias", None, "the file holds tensors named"),
        (3, "q2c", "decoder.0.bias", np.nan, "not finite"),
        (3, "q2c", "decoder.0.weight", 0, "nats per whole test image"),  # no code is used
        (3, "q2c", "encoder.6.weight", 0, "nats per whole test image"),  # every image has the same code
        (3, "q2c", "encoder.0.weight", 60000, "nats per whole test image"),
        (3, "q3d", "shift", None, "the file holds tensors named"),
        (3, "q3d", "networks.3.2.bias", np.inf, "not finite"),
        (3, "q3d", "matrix", 0, "nats above the entropy"),  # singular: no density
        (3, "q3d", "matrix", [[1, 0], [0, 1]], "nats above the entropy"),
        (3, "q3d", "networks.3.4.weight", 3, "nats above the entropy"),
        (4, "q1d", "first", None, "the file holds tensors named"),
        (4, "q1d", "second.0.weight", np.nan, "not finite"),
        (4, "q1d", "second.0.weight", 0, "nats above the entropy"),  # x_2 does not know x_1
        (4, "q1d", "first", 0, "nats above the entropy"),
        (4, "q2f", "decoder.bias", None, "the file holds tensors named"),
        (4, "q2f", "encoder.0.bias", np.inf, "not finite"),
        (4, "q2f", "decoder.weight", 0, "nats per pair"),  # no code is used
        (4, "q2f", "network.layers.2.bias", 0, "nats per pair"),
        (4, "q2f", "network.layers.0.weight", 0, "nats per pair"),  # dimensions of the code hear nobody
    ],
)
def test_bad_weights_of_later_homeworks_are_refused(number, question, name, value, said):
    homework = ROOT / f"homeworks/homework{number}"
    question = of_the_file(homework, question)
    weights = safetensors.numpy.load(weights_of(homework, question))
    weights[name] = weights[name] * 0 + np.asarray(value, weights[name].dtype) if value is not None else None
    spoilt = safetensors.numpy.save({name: one for name, one in weights.items() if one is not None})
    status, message = judged(homework, question, 0, weights=spoilt)
    assert status == "wrong" and re.search(said, message), message


@pytest.mark.parametrize(
    ("number", "question", "name"),
    [(3, "q2c", "decoder.0.bias"), (3, "q3d", "shift"), (4, "q1d", "first"), (4, "q2f", "decoder.bias")],
)
def test_weights_of_later_homeworks_are_needed_and_have_their_shapes(number, question, name):
    homework = ROOT / f"homeworks/homework{number}"
    question = of_the_file(homework, question)
    assert judged(homework, question, 0)[0] == "missing"
    weights = safetensors.numpy.load(weights_of(homework, question))
    weights[name] = weights[name][:1]
    status, message = judged(homework, question, 0, weights=safetensors.numpy.save(weights))
    assert status == "wrong" and "shape" in message


def crammed(model, loss, batches, steps):
    """Return a hand-in's weights after they were fitted to a few images, `loss(batch)` in nats."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        loss(batches(step)).backward()
        optimizer.step()
    return safetensors.numpy.save({name: one.numpy() for name, one in model.state_dict().items()})


def test_a_model_that_learned_the_test_images_of_homework_3_is_refused(monkeypatch):
    """Were there 200 test images, this file would be far below the threshold."""
    hidden, question = module(HW3 / "hidden.py"), of_the_file(HW3, "q2c")
    few, train = hidden.digits("test")[:200], hidden.digits("train")
    monkeypatch.setattr(hidden, "digits", lambda part: few if part == "test" else train)
    networks, rng = hidden.vae_networks(), np.random.default_rng(0)
    hidden.read_into(networks, safetensors.numpy.load(weights_of(HW3, question)))
    loss = lambda images: hidden.vae_nats(networks, images, rng)  # noqa: E731
    file = crammed(networks, loss, lambda step: few[100 * (step % 2) :][:100], steps=120)
    status, message = judged(HW3, question, 0, weights=file)
    assert status == "wrong" and "on training images" in message, message


def test_a_model_that_learned_the_test_digits_of_homework_4_is_refused(monkeypatch):
    hidden, question = module(HW4 / "hidden.py"), of_the_file(HW4, "q2f")
    test, train = hidden.digits("test"), hidden.digits("train")
    few = test._replace(images=test.images[:200], labels=test.labels[:200])
    monkeypatch.setattr(hidden, "digits", lambda part: few if part == "test" else train)
    model, rng = hidden.PairVAE(), np.random.default_rng(0)
    hidden.read_into(model, safetensors.numpy.load(weights_of(HW4, question)))
    loss = lambda pairs: hidden.pairs_nats(model, pairs, rng, draws=1)  # noqa: E731
    file = crammed(model, loss, lambda step: hidden.pairs_of("test", 200, rng), steps=200)
    status, message = judged(HW4, question, 0, weights=file)
    assert status == "wrong" and "on training images" in message, message


# ---- homework 5 --------------------------------------------------------------------------------------------

HW5 = ROOT / "homeworks/homework5"


class Counting:
    """A number that counts how often numbers like it are multiplied and divided."""

    done = 0

    def __init__(self, value):
        self.value = value

    def _new(self, value, counted):
        Counting.done += counted
        return Counting(value)

    def __add__(self, other):
        return self._new(self.value + getattr(other, "value", other), 0)

    def __sub__(self, other):
        return self._new(self.value - getattr(other, "value", other), 0)

    def __mul__(self, other):
        return self._new(self.value * getattr(other, "value", other), 1)

    def __truediv__(self, other):
        return self._new(self.value / getattr(other, "value", other), 1)

    def __rtruediv__(self, other):
        return self._new(other / self.value, 1)


def counted(*shape):
    """Return an array of numbers that count, random, or the given numbers."""
    values = np.random.default_rng(0).normal(size=shape)
    return np.frompyfunc(Counting, 1, 1)(values).reshape(shape)


def product(numbers):
    total = numbers[0]
    for number in numbers[1:]:
        total = total * number
    return total


def determinant(matrix):
    """Eliminate without exchange of rows."""
    matrix = matrix.copy()
    for k in range(len(matrix)):
        for i in range(k + 1, len(matrix)):
            factor = matrix[i, k] / matrix[k, k]
            for j in range(k + 1, len(matrix)):
                matrix[i, j] = matrix[i, j] - factor * matrix[k, j]
    return product(list(matrix.diagonal()))


def triangle_times(triangle, vector):
    """Multiply by an upper triangular matrix, without its zeros."""
    r = len(vector)
    return np.array([sum((triangle[i, j] * vector[j] for j in range(i, r)), Counting(0)) for i in range(r)])


def plus_one(matrix):
    """Add the identity, which is free."""
    return np.array([[one + float(i == j) for j, one in enumerate(row)] for i, row in enumerate(matrix)])


def full_form(m, r, n):
    V, W = counted(m, r), counted(m, r)
    for _ in range(n):
        x, slopes = counted(m), counted(r)
        V @ (W.T @ x)  # the hidden values in between are free
        determinant(plus_one((V * slopes) @ W.T))


def small_form(m, r, n):
    V, W = counted(m, r), counted(m, r)
    core = W.T @ V
    for _ in range(n):
        x, slopes = counted(m), counted(r)
        V @ (W.T @ x)
        determinant(plus_one(slopes[:, None] * core))


def triangular_form(m, r, n):
    Q, U, L = counted(m, r), counted(r, r), counted(r, r)
    for v in counted(r, m):
        beta = 2 / (v @ v)
        Q = Q - np.outer(v, (v @ Q) * beta)
    products = U.diagonal() * L.diagonal()
    for _ in range(n):
        x, slopes = counted(m), counted(r)
        Q @ triangle_times(U, triangle_times(L.T, Q.T @ x))
        product([one + 1 for one in slopes * products])


@pytest.mark.parametrize(("m", "r", "n"), [(1, 1, 1), (4, 1, 2), (5, 2, 3), (6, 4, 2), (4, 4, 1), (9, 3, 4)])
def test_counts_of_homework_5_are_those_of_a_program_that_multiplies(m, r, n):
    done = []
    for form in (full_form, small_form, triangular_form):
        Counting.done = 0
        form(m, r, n)
        done.append(Counting.done)
    assert tuple(done) == module(HW5 / "hidden.py").totals(m, r, n)


def test_smallest_determinants_of_homework_5_are_reached_and_not_passed():
    hidden, rng = module(HW5 / "hidden.py"), np.random.default_rng(0)
    for m, r in ((4, 1), (5, 3), (7, 5)):
        V, W = rng.normal(size=(2, m, r)) / np.sqrt(m) * 1.5
        table = hidden.minors(W.T @ V)
        slopes = rng.beta(0.05, 0.05, size=(20_000, r))
        dense = np.linalg.det(np.eye(m) + (V * slopes[:, None]) @ W.T)
        assert dense.min() > min(table.values()) - 1e-9
        best = min(table, key=table.get)
        a = np.where(np.isin(np.arange(r), best), 0.0, 30.0)  # pre-activations with these slopes
        x = W @ np.linalg.solve(W.T @ W, a)
        there = np.eye(m) + (V * (1 - np.tanh(W.T @ x) ** 2)) @ W.T
        assert np.linalg.det(there) == pytest.approx(table[best], abs=1e-8)


def test_a_layer_of_homework_5_is_planar_layers_in_a_row():
    """The way back of q1a: unit after unit, the last one first; signs of q1c's determinants add up to 1."""
    hidden = module(HW5 / "hidden.py")
    for case in hidden.preimage_cases(np.random.default_rng(0))[:8]:
        given = case.inputs
        Q = hidden.columns(given["reflections"], len(given["b"]))
        product_of_reflections = np.eye(given["reflections"].shape[1])
        for v in given["reflections"]:
            product_of_reflections = product_of_reflections @ (np.eye(len(v)) - 2 * np.outer(v, v) / (v @ v))
        assert np.allclose(Q, product_of_reflections[:, : Q.shape[1]])
        x = np.random.default_rng(1).normal(size=Q.shape[0])
        V, W = Q @ given["U"], Q @ given["L"]
        z = x + V @ np.tanh(W.T @ x + given["b"])
        for v, w, b in zip(V.T, W.T, given["b"], strict=True):
            x = x + v * np.tanh(w @ x + b)
        assert np.allclose(x, z, atol=1e-9)
        U, L, b = (given[name] for name in "ULb")
        points = hidden.solutions(U, L, b, Q.T @ given["z"])
        slopes = 1 - np.tanh(points @ L + b) ** 2
        assert np.sign(1 + slopes * U.diagonal() * L.diagonal()).prod(1).sum() == 1


def test_hard_cores_of_homework_5_have_minima_that_small_steps_do_not_leave():
    hidden = module(HW5 / "hidden.py")
    table = hidden.minors(hidden.a_needle(np.random.default_rng(0)))
    values, units = np.empty(2**14), 2 ** np.arange(14)
    for kept, value in table.items():
        values[units[list(kept)].sum()] = value
    around = values[np.arange(2**14)[:, None] ^ units]  # one unit more or fewer
    minima = np.sort(values[(around > values[:, None]).all(1)])
    assert len(minima) > 1 and -7.5 < values.min() == minima[0] < -6.5 and minima[1] < -4


def test_information_of_homework_5_is_its_definition():
    hidden, rng = module(HW5 / "hidden.py"), np.random.default_rng(0)
    weights, groups = rng.dirichlet(np.ones(6)), np.array([3, 0, 3, 1, 0, 3])
    tables = rng.dirichlet(np.ones(3), size=(6, 2))
    joint = weights[:, None] * (tables[:, 0, :, None] * tables[:, 1, None]).reshape(6, 9)
    by_class = np.array([joint[groups == y].sum(0) for y in (0, 1, 3)])
    both = [
        (table * np.log(table / np.outer(table.sum(1), table.sum(0)))).sum() for table in (joint, by_class)
    ]
    inputs = {"weights": weights, "tables": tables, "groups": groups}
    hidden.information_verify(hidden.Case("", inputs), {"0": np.array(both)})
    for wrong in (1e-7, -1e-7):
        with pytest.raises(hidden.Wrong):
            hidden.information_verify(hidden.Case("", inputs), {"0": np.array(both) + wrong})


def test_bounds_of_homework_5_hold_and_one_more_draw_may_hurt():
    """Part 1 and 3 of q3a by quadrature: one pixel, two kinds of noise, a constant density on the cell."""
    noise_bound = shared_names(HW5)["noise_bound"]
    nodes, areas = np.polynomial.legendre.leggauss(60)
    u, areas = torch.from_numpy(nodes / 2 + 0.5), torch.from_numpy(areas / 2)
    log_kinds = lambda u: torch.stack([torch.zeros_like(u), torch.log(2 * u)])  # noqa: E731

    def expected(counts, log_p, kinds):
        grid = torch.stack(torch.meshgrid(*[u] * len(kinds), indexing="ij")).flatten(1)
        area = torch.stack(torch.meshgrid(*[areas] * len(kinds), indexing="ij")).flatten(1).prod(0)
        log_q = log_kinds(grid)
        density = area * log_q[kinds, range(len(kinds))].sum(0).exp()
        value = noise_bound(log_p(grid), log_q, torch.tensor(counts), 2, 1)
        return (density * value).sum().item(), (density * value.exp()).sum().item()

    flat, waves = torch.zeros_like, lambda u: torch.log(1 + 0.5 * torch.sin(9 * u))
    assert expected((1, 0), flat, [0]) == pytest.approx((np.log(0.5), 0.5), abs=1e-12)
    bound, mean = expected((1, 1), flat, [0, 1])
    assert bound < np.log(0.5) - 0.01 and mean == pytest.approx(0.5)
    exact = (areas * waves(u).exp()).sum().item() / 2
    for counts, kinds in (((1, 0), [0]), ((1, 1), [0, 1]), ((2, 1), [0, 0, 1])):
        bound, mean = expected(counts, waves, kinds)
        assert mean == pytest.approx(exact) and bound < np.log(exact)


def test_the_least_squares_theorem_of_homework_5_holds_in_one_convention():
    hidden = module(HW5 / "hidden.py")
    optimum = shared_names(HW5)["least_squares_optimum"]
    pi, p = (torch.tensor(values, dtype=torch.float64) for values in ([0.5, 0.5], [0.25, 0.75]))
    loss = optimum(pi, p, 0.5, -1.0, 1.0, 0.0)[1].item()
    first, second = (((pi - p) ** 2 / below).sum().item() / 2 for below in (pi + p, 2 * p))
    assert loss == pytest.approx(1 / 15) == first and second == pytest.approx(1 / 12)
    rng = np.random.default_rng(0)
    for share in (0.5, 0.2, 0.9):
        mean_pi, mean_p = rng.normal(size=2)
        std_pi, std_p = rng.uniform(1, 1.25, size=2)
        pi, p = (stats.norm(mean, std).pdf for mean, std in ((mean_pi, std_pi), (mean_p, std_p)))
        mixture = lambda x, share=share, pi=pi, p=p: share * pi(x) + (1 - share) * p(x)  # noqa: E731
        numbers = mean_pi, std_pi, mean_p, std_p, share
        for below, value in ((mixture, hidden.by_quadrature(*numbers)), (p, hidden.divided_by_p(*numbers))):
            term = lambda x, below=below, p=p, mixture=mixture: (p(x) - mixture(x)) ** 2 / below(x)  # noqa: E731
            assert integrate.quad(term, -25, 25, limit=500)[0] == pytest.approx(value, rel=1e-7)
        # The loss of q4a, its two summands, for labels that are not the theorem's.
        a, b, c = rng.normal(size=3)
        best = lambda x, s=share, pi=pi, p=p, a=a, b=b, m=mixture: (s * b * pi(x) + (1 - s) * a * p(x)) / m(x)  # noqa: E731
        loss = integrate.quad(lambda x, c=c, m=mixture, D=best: m(x) * (D(x) - c) ** 2, -25, 25, limit=500)[0]
        bias = (share * b + (1 - share) * a - c) ** 2
        spread = (b - a) ** 2 * (1 - share) ** 2 * hidden.by_quadrature(*numbers)
        assert loss == pytest.approx(spread + bias, rel=1e-7)


def test_without_its_first_term_the_loss_of_homework_5_can_be_largest_at_the_data():
    """Part 4 of q4a: with the label of real examples p = pi is the minimum, with the other the maximum."""
    rng, optimum = np.random.default_rng(0), shared_names(HW5)["least_squares_optimum"]
    pi, others = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5), size=200)
    pi, p = torch.from_numpy(pi), torch.from_numpy(np.concatenate([pi[None], others]))
    D = optimum(pi, p, 0.5, -1.0, 2.0, 0.0)[0]
    for target, better in ((2.0, torch.gt), (-1.0, torch.lt)):
        kept = 0.5 * (p * (D - target) ** 2).sum(1)
        assert better(kept[1:], kept[0]).all() and kept[0].item() == pytest.approx(9 / 8)


def test_fixed_counts_of_homework_5_have_the_smaller_variance():
    """Part 4 of q3a, on a cell of six places: both variances by all outcomes."""
    rng, counts = np.random.default_rng(0), np.array([2, 1])
    kinds, target = rng.dirichlet(np.ones(6), size=2), rng.random(6)
    mixture = counts @ kinds / 3
    weight = target / mixture
    means = {}
    for name, densities in {"fixed": kinds[[0, 0, 1]], "mixture": np.stack([mixture] * 3)}.items():
        chance = np.einsum("i,j,k->ijk", *densities)
        mean = (weight[:, None, None] + weight[:, None] + weight) / 3
        assert (chance * mean).sum() == pytest.approx(target.sum())
        means[name] = (chance * mean**2).sum() - target.sum() ** 2
    squares = counts @ (kinds @ weight - target.sum()) ** 2 / 9
    assert squares > 1e-6 and means["mixture"] - means["fixed"] == pytest.approx(squares)


# ---- homework 4 --------------------------------------------------------------------------------------------


def test_laws_of_the_hidden_checks_of_homework_4_hold():
    """The CDF of q1a by quadrature, the two integrals of q2e, the combination of q2d."""
    hidden = module(HW4 / "hidden.py")
    numbers = [
        torch.tensor(one, dtype=torch.float64) for one in ([0.3, -1.0], [-0.5, 1.0], [0.4, -1.5], [-0.7, 0.9])
    ]
    logits, means, left, right = (one.numpy() for one in numbers)
    weights = np.exp(logits) / np.exp(logits).sum()

    def density(x):
        width = np.exp(np.where(x < means, left, right))
        normal = np.exp(-(((x - means) / width) ** 2) / 2) / np.sqrt(2 * np.pi)
        return (weights * 2 / (np.exp(left) + np.exp(right)) * normal).sum()

    for x in -3.0, -0.5, 0.2, 1.0, 2.5:
        log_cdf, log_rest, log_density = hidden.mixture_logs(torch.tensor(x, dtype=torch.float64), *numbers)
        kinks = sorted({x, *means})
        edges = [-40, *[one for one in kinks if one <= x]]
        below = sum(integrate.quad(density, *pair)[0] for pair in itertools.pairwise(edges))
        assert log_cdf.exp().item() == pytest.approx(below, abs=1e-8)
        assert (log_cdf.exp() + log_rest.exp()).item() == pytest.approx(1, abs=1e-12)
        assert log_density.exp().item() == pytest.approx(density(x), rel=1e-9)

    def bell(x):
        return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)

    z = np.array([[0.7, -1.2], [0.1, 2.0]])
    across = [
        [integrate.quad(lambda t, a=a: bell(t) * np.exp(-((a - t) ** 2) / 2), -30, 30)[0] for a in row]
        for row in z
    ]
    both = integrate.dblquad(lambda s, t: bell(s) * bell(t) * np.exp(-((s - t) ** 2) / 2), -12, 12, -12, 12)[
        0
    ]
    kernel = np.exp(-((z[0] - z[1]) ** 2).sum() / 2)
    t = kernel - 2 * np.prod(across, axis=1).mean() + both**2
    table = np.array([[0, t], [t, 0]])
    outputs = {"table": table, "again": table, "pair": np.array([0, 1]), "two_ints": np.array(True)}
    hidden.pair_verify(hidden.Case("", {"z": z}), outputs)
    with pytest.raises(hidden.Wrong):
        hidden.pair_verify(hidden.Case("", {"z": z}), outputs | {"table": outputs["table"] + 1e-6})
    # Log-normal weights: log p = 1/2; the bound misses it by its bias, the corrected estimate by much less.
    log_w = np.random.default_rng(0).normal(size=(20, 20_000))
    bound, corrected = shared_names(HW4)["jackknife"](torch.from_numpy(log_w))
    error = corrected.std().item() / 20_000**0.5
    assert 0.5 - bound.mean() > 10 * error and abs(corrected.mean() - 0.5) < 5 * error + 0.005


def test_models_of_the_hidden_checks_of_homework_4_are_the_locked_ones():
    hidden, names = module(HW4 / "hidden.py"), shared_names(HW4)
    weights = safetensors.numpy.load(weights_of(HW4, of_the_file(HW4, "q1d")))
    ours, locked = hidden.MoonNetwork().double(), names["MoonNetwork"]()
    hidden.read_into(ours, weights)
    locked.load_state_dict({name: torch.from_numpy(value).float() for name, value in weights.items()})
    x = names["data"].moons().sample(200, seed=1)
    with torch.no_grad():
        assert torch.allclose(
            ours.log_prob(x.double()).exp(), names["plain_density"](locked, x), rtol=1e-3, atol=1e-6
        )
    weights = safetensors.numpy.load(weights_of(HW4, of_the_file(HW4, "q2f")))
    ours, locked = hidden.PairVAE(), names["new_model"]()
    hidden.read_into(ours, weights)
    locked.load_state_dict({name: torch.from_numpy(value).float() for name, value in weights.items()})
    assert all(torch.equal(mask, locked.network.get_buffer(f"mask_{k}")) for k, mask in enumerate(ours.masks))
    z = torch.randn(50, 16)
    with torch.no_grad():
        given = names["log_prior"](locked.network(z), z)
        assert torch.allclose(ours.log_prior(z), given, atol=1e-3)
        J = torch.autograd.functional.jacobian(lambda one: locked.network(one).abs().sum(-1), z[0])
    distance = hidden.GROUP[:, None] - hidden.GROUP
    assert not J.numpy()[(distance < 1) | (distance > hidden.REACH)].any() and (J != 0).any()
    sent = hidden.pairs_of("test", 20, np.random.default_rng(0))
    assert sent.shape == (20, 392) and set(sent.unique().tolist()) == {0, 1}


def test_the_test_of_draws_of_homework_4_accuses_nobody_and_sees_what_it_should():
    hidden = module(HW4 / "hidden.py")
    for seed in range(200):
        rng = np.random.default_rng(seed)
        hidden.standard_draws(rng.normal(size=(rng.integers(300, 4000), rng.integers(1, 7))), "draws")
    white = np.random.default_rng(0).normal(size=(4000, 2))
    mirrored = np.concatenate([white[:2000], -white[:2000]])
    walk = (white + np.roll(white, 1, axis=0)) / np.sqrt(2)
    uniform = np.random.default_rng(1).uniform(-np.sqrt(3), np.sqrt(3), size=(4000, 2))
    for wrong in 1.1 * white, white + 0.2, uniform, np.sort(white, axis=0), mirrored, walk:
        with pytest.raises(hidden.Wrong):
            hidden.standard_draws(wrong, "draws")
