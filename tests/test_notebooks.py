"""Every committed notebook keeps the rules of CONTRIBUTING.md: it is read here, not run."""

import ast
import builtins
import re
import sys
import warnings
from functools import cache
from pathlib import Path

import pytest

from tools import definitions, notebooks
from tools.normalise import STUDENT_VERSION, normalised_text

ROOT = Path(__file__).resolve().parent.parent
PATHS = notebooks.find_notebooks()
ANSWERED = [path for path in PATHS if not STUDENT_VERSION.fullmatch(path.name)]
SEMINARS = [path for path in PATHS if "seminars" in path.parts]

# What Colab has, and the package that its first cell installs.
COLAB = {
    "IPython",
    "PIL",
    "dgm_utils",
    "google",
    "ipywidgets",
    "matplotlib",
    "numpy",
    "safetensors",
    "scipy",
    "sklearn",
    "torch",
    "torchvision",
    "tqdm",
}
SLIDE_TYPES = {"slide", "subslide", "fragment", "notes", "skip"}  # JupyterLab never shows the type "-"
VISIBLE_LINES, LIMIT = 15, 25  # lines of code: what fits a slide, and what no visible cell may exceed

read = cache(notebooks.read_notebook)


def name(path):
    return path.relative_to(ROOT).as_posix()


each = pytest.mark.parametrize("path", PATHS, ids=name)
each_answered = pytest.mark.parametrize("path", ANSWERED, ids=name)
each_seminar = pytest.mark.parametrize("path", SEMINARS, ids=name)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def parsed(source):
    """Parse a cell without IPython's own lines."""
    return ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE))


def foreign_imports(source):
    """List the packages that a source imports and Colab does not have."""
    modules = set()
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module.split(".")[0])
    return sorted(modules - COLAB - sys.stdlib_module_names)


def test_there_are_notebooks():
    assert PATHS


@each
def test_normalised(path):
    text, problems = normalised_text(path)  # also says which copy of a definition is stale
    assert not problems
    assert text == path.read_text(encoding="utf-8"), f"{name(path)}: run make fmt"


@each
def test_parses(path):
    for cell in code_cells(path):
        try:
            parsed(cell.source)
        except SyntaxError as error:
            pytest.fail(f"{name(path)}, cell {cell.id}, line {error.lineno}: {error.msg}")


@each
def test_definitions_are_named_once(path):
    definitions.definitions(read(path), name(path))


@each
def test_imports_only_what_colab_has(path):
    assert not {package for cell in code_cells(path) for package in foreign_imports(cell.source)}


@pytest.mark.parametrize("path", sorted((ROOT / "dgm_utils").glob("*.py")), ids=lambda path: path.stem)
def test_the_package_imports_only_what_colab_has(path):
    assert not foreign_imports(path.read_text(encoding="utf-8"))


def test_foreign_imports_are_seen():
    assert foreign_imports("import papermill\nfrom torchmetrics.image import fid\nimport torch.nn") == [
        "papermill",
        "torchmetrics",
    ]
    assert (
        foreign_imports("%matplotlib inline\nimport os\nfrom . import here\nfrom google.colab import files")
        == []
    )


@each
def test_asks_for_the_quick_profile(path):
    cells = [cell for cell in code_cells(path) if "parameters" in tags(cell)]
    assert len(cells) == 1, f"{name(path)}: {len(cells)} cells are tagged parameters, expected 1"
    values = {
        target.id: node.value
        for node in parsed(cells[0].source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert "PROFILE" in values and ast.literal_eval(values["PROFILE"]) == "quick"


@each_answered
def test_has_been_run_from_top_to_bottom(path):
    counts = [cell.execution_count for cell in code_cells(path) if cell.source]
    assert counts == list(range(1, len(counts) + 1))
    assert any(cell.outputs for cell in code_cells(path))


@each
def test_stores_no_error_but_the_expected_ones(path):
    for cell in code_cells(path):
        errors = [output.ename for output in cell.outputs if output.output_type == "error"]
        assert not errors or "raises-exception" in tags(cell), f"{name(path)}, cell {cell.id}: {errors}"


@each_seminar
def test_every_cell_is_placed_on_a_slide(path):
    for number, cell in enumerate(read(path).cells, start=1):
        placed = notebooks.slide_type(cell)
        assert placed in SLIDE_TYPES, f"{name(path)}, cell {number} ({cell.id}): slide type {placed}"


def shown_in_class(path):
    """Return the cells before the part At home that are slides."""
    cells = read(path).cells
    home = next(k for k, cell in enumerate(cells) if cell.source.startswith("## At home"))
    kinds = [notebooks.slide_type(cell) for cell in cells]
    assert set(kinds[home:]) == {"skip"}, f"{name(path)}: what stands under At home is no slide"
    return [cell for cell, kind in zip(cells[:home], kinds, strict=False) if kind not in ("notes", "skip")]


@each_seminar
def test_it_fits_seventy_minutes_of_class(path):
    """The plan sums to 70 minutes; about a hundred cells are shown, a dozen predictions at most."""
    (plan,) = [c.source for c in read(path).cells if re.search(r"\*\*Plan for \d+ minutes\*\*", c.source)]
    minutes = sum(map(int, re.findall(r"^\| (\d+) \|", plan, re.MULTILINE)))
    assert int(re.search(r"Plan for (\d+) minutes", plan)[1]) == minutes <= 70
    shown = shown_in_class(path)
    assert len(shown) <= 110 and sum("**Predict" in cell.source for cell in shown) <= 12
    for exercise in filter(None, (re.match(r"### Exercise (\d+)", cell.source) for cell in shown)):
        assert re.search(rf"exercises? (\d+ and )?{exercise[1]}\b", plan), f"the plan lacks {exercise[0]}"


def bound_names(node):
    """Return the names that a node of a syntax tree binds."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.ExceptHandler(name=name):
            return {name}
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.alias(name=name, asname=short):
            return {short or name.partition(".")[0]}
    return set()


@each_seminar
def test_class_needs_nothing_from_home(path):
    """Every name that a cell before At home reads is bound by it or by an earlier cell."""
    bound = {*dir(builtins), "display"}
    for cell in read(path).cells:
        if cell.source.startswith("## At home"):
            break
        if cell.cell_type == "code":
            nodes = list(ast.walk(parsed(cell.source)))
            bound = bound.union(*map(bound_names, nodes))
            names = [node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
            missing = {node.id for node in names} - bound
            assert not missing, f"{name(path)}, cell {cell.id} reads {missing}, bound later or at home"


@each
def test_visible_code_fits_a_slide(path):
    lengths = {}
    for cell in code_cells(path):
        hidden = cell.metadata.get("jupyter", {}).get("source_hidden") or cell.metadata.get("collapsed")
        if not hidden and "cellView" not in cell.metadata and "setup" not in tags(cell):
            lengths[cell.id] = sum(bool(line.strip()) for line in cell.source.splitlines())
            if any(tag.startswith(("def:", "from:")) for tag in tags(cell)):
                continue
            if path in SEMINARS and VISIBLE_LINES < lengths[cell.id] <= LIMIT:
                message = (
                    f"{name(path)}, cell {cell.id}: {lengths[cell.id]} lines, a slide holds {VISIBLE_LINES}"
                )
                warnings.warn(message, stacklevel=1)
    too_long = {identifier: length for identifier, length in lengths.items() if length > LIMIT}
    assert not too_long, f"{name(path)}: fold or split these cells, at most {LIMIT} lines of code are shown"


@each
def test_every_picture_has_alternative_text(path):
    missing = []
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            bare = re.findall(r"!\[\s*\]\(|<img(?![^>]*\balt=[\"'][^\"'])[^>]*>", cell.source)
            missing += [f"cell {cell.id}: {found}" for found in bare]
        for output in cell.get("outputs", []):
            for kind in output.get("data", {}):
                if kind.startswith("image/") and not output.metadata.get(kind, {}).get("alt", "").strip():
                    missing.append(f"cell {cell.id}: {kind}")
    assert not missing


# Jupyter, Colab, GitHub and VS Code read Markdown and LaTeX each in their own way: what one of them shows raw
# or breaks has no place in a cell.
LEAKS = [  # in the text around formulas and code
    (r"\{[\w:]+\}code", "a role of MyST, which is shown as it is written"),
    (r"^\s*(:{3,}|```\{)", "a directive of MyST, which is shown as it is written"),
    (r"\\begin\{(align|equation|gather|split)", "an environment outside $$: GitHub shows its source"),
    (r"\\\(|\\\)|\\\[|\\\]", "a bracket of LaTeX: Colab and GitHub know $ and $$ only"),
    (r"</summary>\n(?!\n)", "no blank line after a summary: the Markdown below it stays raw"),
]
MATHS_LEAKS = [  # in formulas
    (
        r"\\(bm|mathds|mathbbm|coloneqq|qty|argmax|argmin)\b",
        "a command of a package that MathJax does not load",
    ),
    (
        r"\\(newcommand|renewcommand|def|DeclareMathOperator|require|usepackage)\b",
        "a definition: pages forbid it",
    ),
    (r"\\operatorname\b", "GitHub forbids it: write \\mathrm"),
    (r"\\(label|ref|eqref)\b", "a reference, which depends on the page"),
    (r"<(?=[A-Za-z/!?])", "read as the beginning of an HTML tag: put a space after <"),
    (r"\\\\_|\\\*", "an escape that Markdown eats before the formula is read"),
    (r"^\$\s[^$]*[^$]\$$|^\$[^$]*\s\$$", "a space inside the dollars: then they are dollars"),
]
IN_TABLE = [(r"(?<!\\)\|", "| ends the cell of a table: write \\mid, \\lvert or \\rvert")]
MATHS = re.compile(r"\$\$.+?\$\$|(?<![\\$])\$(?!\$)[^$]+?(?<!\\)\$(?!\$)", re.DOTALL)
CODE = re.compile(r"\(data:image[^)]*\)|^```\w*\n.*?^```|(?<!`)`[^`\n]+`(?!`)", re.DOTALL | re.MULTILINE)


def leaks(source):
    """Return what some reader of notebooks shows raw or breaks, each with the reason."""
    text = CODE.sub("code", source)
    formulas = MATHS.findall(text)
    rows = [line for line in text.splitlines() if line.lstrip().startswith("|")]
    found = [(pattern, MATHS.sub("formula", text), why) for pattern, why in LEAKS]
    found += [(pattern, formula, why) for pattern, why in MATHS_LEAKS for formula in formulas]
    found += [
        (p, formula[1:-1], why) for p, why in IN_TABLE for row in rows for formula in MATHS.findall(row)
    ]
    said = [f"{hit[0]!r}: {why}" for pattern, part, why in found if (hit := re.search(pattern, part, re.M))]
    for hit in re.findall(r"[\w\\]\$formula|formula\$\w", MATHS.sub("$formula$", text)):
        said.append(f"{hit!r}: a dollar beside a letter or digit opens no formula")
    return said


@each
def test_no_syntax_leaks_into_what_is_read(path):
    said = {cell.id: leaks(cell.source) for cell in read(path).cells if cell.cell_type == "markdown"}
    assert not {cell: found for cell, found in said.items() if found}


@pytest.mark.parametrize(
    "source",
    [
        "see {ref}`elbo`",
        ":::{note}\nText\n:::",
        "```{note}\nText\n```",
        "\\begin{align}x\\end{align}",
        "so \\(x\\) is",
        "<details><summary>Hint</summary>\n*text*\n</details>",
        "$\\bm x$",
        "$$\\newcommand{\\kl}{KL}$$",
        "$\\operatorname{tr}A$",
        "$$x \\label{a}$$",
        "for $j<i$ it is",
        "$a\\\\_b$",
        "costs $ x $ nats",
        "| a | $|x|$ |",
        "the 2$x$ of it",
        "$x$y",
    ],
)
def test_leaks_are_seen(source):
    assert len(leaks(source)) >= 1


@pytest.mark.parametrize(
    "source",
    [
        "`$x` and $x$, ($y$), **$z$**: $-1\\le x\\le1$.",
        "$$\\begin{cases}1&x< 2\\\\0\\end{cases}$$",
        "```python\nx = a[\\(]\n```",
        "| $p(x\\mid z)$ | `a|b` |",
        "<details><summary>Hint</summary>\n\n*text*\n</details>",
    ],
)
def test_what_everybody_shows_is_no_leak(source):
    assert leaks(source) == []
