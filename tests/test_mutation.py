"""Generated wrong solutions: what each operator makes, and what their survivors say of hidden checks."""

import ast
import itertools
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from grading.homework import imported
from grading.mutation import generated
from grading.mutation_score import Judge, generated_answers, main, sample, score

ROOT = Path(__file__).resolve().parents[1]
HOMEWORKS = sorted(
    path for path in (ROOT / "homeworks").glob("homework*") if list(path.glob("*.solution.ipynb"))
)

RETURNED = "-x, 'w'", "y, 'w'", "kept, 'w'", "x, -'w'", "x, y", "x, kept", "'w', x"
SUMS = "sum(1, keepdim=True)", "mean(1)", "logsumexp(1)", "sum(2)", "sum(0)"
FUNCTION = """# @answer q1
def f(x, y):
    kept = 7
    ### BEGIN SOLUTION
    {}
    ### END SOLUTION
    return kept + 1
"""


def changed(*lines):
    """Return what stands in the place of a solution in its wrong versions; the rest has to stay."""
    source = FUNCTION.format("\n    ".join(lines))
    texts = [text.split("\n") for text in generated("hw0", "q1", source).values()]
    assert all(text[1] == "    kept = 7" and text[-1] == "    return kept + 1" for text in texts)
    return {"; ".join(line.strip() for line in text[2:-1]) for text in texts}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("z = x - y", {"z = x + y"}),
        ("z = x @ y", {"z = y @ x"}),
        ("z = x ** y", {"z = x * y"}),
        ("z = x // y", {"z = x * y"}),
        ("z = x & y", {"z = x | y"}),
        ("x += y", {"x -= y", "pass"}),
        ("x = y", {"pass"}),
        ("z = y", set()),
        ("z = x <= y", {"z = x < y", "z = x > y"}),
        ("z = x == y", {"z = x != y"}),
        ("z = x and (not y)", {"z = x or not y", "z = x and y"}),
        ("z = -x", {"z = x"}),
        ("z = 3", {"z = 4", "z = 2", "z = 0", "z = 6", "z = -3"}),
        ("z = 0.5", {"z = 1.5", "z = -0.5", "z = 0.0", "z = 1.0"}),
        ("z = True", {"z = False"}),
        ("z = x if y else 'word'", {"z = x if not y else 'word'"}),
        ("x.append(y)", {"pass"}),
        ("raise ValueError('not 3', 4)", {"pass"}),
        ("return x", {"return -x", "return kept", "return y"}),
        ("return (x, 'w')", {f"return ({one})" for one in RETURNED}),
        ("z = x.sum(1)", {f"z = x.{one}" for one in SUMS}),
        ("z = x.amax(y)", {"z = x.amin(y)", "z = x.amax(y, keepdim=True)"}),
        ("z = x.all(keepdim=True)", {"z = x.all()", "z = x.any(keepdim=True)", "z = x.all(keepdim=False)"}),
        ("z = x.roll(dim=-1)", {f"z = x.roll({one})" for one in ("", "dim=1", "dim=-2", "dim=-0")}),
        ("z = x.shape[1]", {"z = x.shape[2]", "z = x.shape[0]"}),
        ("z = x[y:]", {"z = x[y + 1:]", "z = x[y - 1:]", "z = x[y:-1]"}),
        ("z = x[:2]", {f"z = x[{one}]" for one in ("1:2", ":3", ":1", ":0", ":4", ":-2")}),
        ("z = f(x, y)", {"z = f(y, x)"}),
        ("z = f(x, device=y)", set()),
        ("z = torch.maximum(x, y)", {"z = torch.minimum(x, y)", "z = torch.logaddexp(x, y)"}),
        ("z = torch.log(x)", {"z = torch.log1p(x)"}),
        ("z = exp(x)", {"z = expm1(x)"}),
        ("z = x.tril()", {"z = x.triu()"}),
        ("z = x.clamp(min=y)", {"z = x.clamp()", "z = x"}),
        ("z = torch.clamp(x)", {"z = x"}),
        ("z = x.mT", {"z = x"}),
        ("z = x.detach()", {"z = x"}),
        ("z = range(x)", {"z = range(x - 1)"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_operators(line, wrong):
    """Each operator makes what it should, and none makes anything else."""
    assert changed(line) == wrong


def test_operators_of_blocks():
    assert changed("with torch.no_grad():", "    f(x)") == {"if True:; f(x)", "with torch.no_grad():; pass"}
    assert changed("while x:", "    f(x)") == {"while not x:; f(x)", "while x:; pass", "pass"}
    method = FUNCTION.format("return x").replace("f(x, y)", "f(self, x)")
    assert any("return x.detach()" in text for text in generated("hw0", "q1", method).values())


def test_names_of_generated_solutions():
    names = list(generated("hw0", "q1", FUNCTION.format("x = y.log() < 2 * y.log()")))
    assert names[0] == "hw0:q1:5:{x = y.log() < 2 * y.log() → pass}"
    assert {"hw0:q1:5:x = y.{log → log1p}() < 2 * y.log()", "hw0:q1:5:x = y.log() {< → <=} 2 * y.log()"} < {
        *names
    }
    alike = list(generated("hw0", "q1", FUNCTION.format("x = [" + 9 * "some(y) < 2, " + "]")))
    changes = [name.rpartition(" #") for name in alike if "{2 → 3}" in name]
    assert len(set(alike)) == len(alike) and {"2", "3"} < {number for _, _, number in changes}


@pytest.mark.parametrize("homework", HOMEWORKS, ids=lambda path: path.name)
def test_generated_solutions_of_homeworks(homework):
    """They parse, each is another one, all are found again, and what is called equivalent is among them."""
    judge = Judge(homework)
    wrong = generated_answers(judge)
    sources = [source for _, source in wrong.values()]
    assert len(set(sources)) == len(sources) > 15 * len(judge.cases)
    assert all(ast.parse(source) for source in sources)
    chosen = sample(wrong, 4)
    assert list(chosen) == [name for name in wrong if name in chosen] and chosen == sample(wrong, 4)
    counts = [len(list(group)) for _, group in itertools.groupby(answer for answer, _ in chosen.values())]
    assert set(counts) == {4}
    equivalent = imported(homework / "mutants.py").EQUIVALENT
    names = list(itertools.chain(*equivalent.values()))
    assert (
        set(names) <= set(wrong)
        and len(set(names)) == len(names)
        and all(len(why) > 15 for why in equivalent)
    )


# ---- a small homework, to see what the count says of its hidden checks -------------------------------------

ANSWER = """# @answer q1
def direction(n):
    ### BEGIN SOLUTION
    return max(-1, min(1, n))
    ### END SOLUTION
"""
HIDDEN = """
import numpy as np
from grading.questions import Case, Question, call, match

def cases(rng):
    return [Case(call("direction", "n"), {{"n": np.asarray(n)}}) for n in ({numbers})]

def verify(case, outputs):
    match(outputs, "0", np.sign(case.inputs["n"]){more})

QUESTIONS = [Question("q1", points=1, cases=cases, verify=verify)]
"""
MUTANTS = """
GUESS = "def direction(n): return 0"
MUTANTS = {{"guess": {{"question": "q1", "cell": "q1", "source": GUESS, "why": "Right for 0."}}}}
EQUIVALENT = {equivalent}
"""
SWAPPED = "hw0:q1:4:return max(-1, min({1, n → n, 1}))"


@pytest.fixture
def homework(tmp_path):
    """Return a function that writes the small homework: its numbers, its bound, what is called equivalent."""
    cell = new_code_cell(ANSWER, metadata={"nbgrader": {"grade_id": "q1", "solution": True}})
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "hw0.solution.ipynb")

    def written(numbers="-5, -1, 0, 1, 7", more="", equivalent=(SWAPPED,)):
        (tmp_path / "hidden.py").write_text(HIDDEN.format(numbers=numbers, more=more))
        reasons = {"The smaller of two numbers.": list(equivalent)}
        (tmp_path / "mutants.py").write_text(MUTANTS.format(equivalent=reasons))
        return tmp_path

    return written


def test_strong_and_weak_checks_are_told_apart(homework, capsys):
    strong, weak = score(homework(), most=99), score(homework(numbers="0,"), most=99)
    assert strong.survived == ["hw0:q1:4:return max({-1, min(1, n) → min(1, n), -1})"]
    assert "guess" in weak.survived and len(weak.survived) > 5
    assert (strong.written, strong.generated) == (weak.written, weak.generated) == (1, 10)
    assert main([str(homework(more=", atol=9")), "--most", "3"]) == 1  # blind
    row, *survivors, last = capsys.readouterr().out.split("\n")[1:-1]
    assert row.split()[1:] == ["1", "3", "0", "4", "0.0%"] and last.split()[1:] == row.split()[1:]
    assert "  guess" in survivors and len(survivors) == 4


def test_answers_that_never_end_fail(homework):
    judge = Judge(homework())
    assert not judge.passes("q1", "def direction(n):\n    while True:\n        pass")
    assert not judge.passes("q1", "def direction(n):\n    return bytes(99 << 30)")
    assert not judge.passes("q1", "direction = exit")
    assert judge.passes("q1", ANSWER)


def test_right_solution_has_to_pass(homework):
    """Otherwise the score of a check that refuses all would be 100 %."""
    with pytest.raises(ValueError, match="the solution of q1 does not pass"):
        score(homework(more=" + 1"), most=1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hw0:q1:4:return {max → gone}", "holds what is not generated"),
        ("hw0:q1:4:return {max → min}(-1, min(1, n))", "holds what a hidden check notices"),
    ],
)
def test_equivalent_ones_are_generated_and_pass(homework, name, words):
    with pytest.raises(ValueError, match=words):
        score(homework(equivalent=(SWAPPED, name)), most=1)
