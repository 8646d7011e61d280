"""Generate wrong solutions: the code answers of a solution notebook, each with one small change.

What such a change does is not known, so a hidden check that lets many of them pass is weak, or the change is
none. `mutation_score.py` counts them.
"""

import ast
import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy

WORD = re.compile(r"[\w<>=!*/]")  # a character of a name, a number or an operator
AROUND = 24  # characters of a line that a name shows at either side of a change
REGION = re.compile(r"### BEGIN SOLUTION.*?### END SOLUTION", re.DOTALL)

OTHER_OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
OTHER_COMPARISONS = {  # with the boundary moved, and the other way round
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
PAIRS = """
    log log1p, exp expm1, sum mean, softmax log_softmax, sigmoid tanh, sigmoid logsigmoid, min max,
    minimum maximum, amin amax, argmin argmax, tril triu, floor ceil, all any, zeros ones,
    zeros_like ones_like, randn rand, randn_like rand_like, cumsum cumprod, sqrt square, sin cos,
    erf erfc, logsumexp sum, logcumsumexp cumsum, logaddexp maximum
"""
OTHER_FUNCTIONS = {}
for one, other in (pair.split() for pair in PAIRS.split(",")):
    OTHER_FUNCTIONS.setdefault(one, []).append(other)
    OTHER_FUNCTIONS.setdefault(other, []).append(one)
UNNEEDED = {"clamp", "detach", "clone", "abs", "flip", "T", "mT"}  # calls and attributes that can go
KNOW_KEEPDIM = {"sum", "mean", "prod", "amin", "amax", "logsumexp"}
TAKE_DIMENSIONS = KNOW_KEEPDIM | set(
    """
    all any argmax argmin cat chunk cumprod cumsum flatten flip gather index_add index_fill log_softmax
    logcumsumexp max min softmax sort squeeze stack transpose unbind unflatten unique unsqueeze
    """.split()  # noqa: SIM905
)
SYMMETRIC = {"equal", "minimum", "maximum", "logaddexp", "transpose", "isclose", "allclose"}


def generated(file: str, question: str, source: str) -> dict[str, str]:
    """Return wrong versions of an answer cell by name, file:question:line:change, in the order of its lines.

    Only what stands between the lines BEGIN and END SOLUTION changes. A name shows the change in braces with
    what stands around it, and the line is the cell's; equal ones are numbered.
    """
    tree = ast.parse(source)
    lines = {
        line
        for part in REGION.finditer(source)
        for line in range(source.count("\n", 0, part.start()) + 1, source.count("\n", 0, part.end()) + 1)
    }
    _mark_dimensions(tree)
    right, seen, names, wrong = ast.unparse(tree), set(), Counter(), {}
    for place in _places(tree, lines, None):
        for text in _changed_texts(tree, *place):
            if text not in seen | {right}:
                seen.add(text)
                name = f"{file}:{question}:{place[2].lineno}:{_difference(right, text)}"
                names[name] += 1
                wrong[name if names[name] == 1 else f"{name} #{names[name]}"] = text
    return wrong


def _called(node: ast.Call) -> str | None:
    """Return the last part of the name of what is called."""
    return getattr(node.func, "attr", None) or getattr(node.func, "id", None)


def _mark_dimensions(tree: ast.AST) -> None:
    """Give numbers of dimensions the attribute `counts_dimensions`: from behind they are the same again."""
    for node in ast.walk(tree):
        numbers = []
        if isinstance(node, ast.Call):
            numbers += node.args if _called(node) in TAKE_DIMENSIONS else []
            numbers += [keyword.value for keyword in node.keywords if keyword.arg in ("dim", "axis")]
        elif isinstance(node, ast.Subscript) and getattr(node.value, "attr", None) == "shape":
            numbers.append(node.slice)
        for number in itertools.chain(*(getattr(one, "elts", [one]) for one in numbers)):
            getattr(number, "operand", number).counts_dimensions = True


Place = tuple[list | ast.AST, int | str, ast.AST, ast.FunctionDef | None]  # holder, key, node, its function


def _places(node: ast.AST, lines: set[int], function: ast.FunctionDef | None) -> Iterator[Place]:
    """Yield what stands on the lines: where it hangs, itself and the function around it, outer ones first."""
    if isinstance(node, ast.Raise | ast.JoinedStr):
        return  # the words of a message are free
    function = node if isinstance(node, ast.FunctionDef) else function
    for field, value in ast.iter_fields(node):
        holder, items = (value, enumerate(value)) if isinstance(value, list) else (node, [(field, value)])
        for key, item in items:
            if isinstance(item, ast.AST):
                if getattr(item, "lineno", None) in lines:
                    yield holder, key, item, function
                yield from _places(item, lines, function)


def _changed_texts(tree: ast.AST, holder, key, node: ast.AST, function: ast.FunctionDef | None) -> list[str]:
    """Return the source with each other thing that can stand in a place."""
    put = functools.partial(holder.__setitem__ if isinstance(holder, list) else holder.__setattr__, key)
    texts = []
    for other in changes(node, function):
        put(other)
        texts.append(ast.unparse(tree))
    put(node)
    return texts


def _difference(before: str, after: str) -> str:
    """Return the words in which two texts differ, as {before → after}, with a little of their line around."""
    start = _alike(before, after)
    behind = _alike(before[start:][::-1], after[start:][::-1])
    while start and WORD.match(before[start - 1]):
        start -= 1
    while behind and WORD.match(before[-behind]):
        behind -= 1
    old, new = (" ".join(text[start : len(text) - behind].split()) for text in (before, after))
    line_before = before[:start].rpartition("\n")[2][-AROUND:].lstrip()
    line_behind = before[len(before) - behind :].partition("\n")[0][:AROUND]
    return f"{line_before}{{{old} → {new}}}{line_behind}"


def _alike(one: str, other: str) -> int:
    """Count the characters at the start that two texts share."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def changes(node: ast.AST, function: ast.FunctionDef | None = None) -> Iterator[ast.AST]:
    """Yield what can stand in a node's place: each is the node with one change."""
    for kind, change in CHANGES.items():
        if isinstance(node, kind):
            yield from change(node, function)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    """Return a copy of a node with other fields."""
    copy = deepcopy(node)
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


# ---- what can stand in the place of a node of each kind; `function` is the one around it -----------------


def _operator(node, function):
    if type(node.op) in OTHER_OPERATORS:
        yield _with(node, op=OTHER_OPERATORS[type(node.op)]())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield _with(node, left=node.right, right=node.left)


def _sign(node, function):
    if isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield node.operand


def _comparison(node, function):
    for place, operator in enumerate(node.ops):
        for other in OTHER_COMPARISONS[type(operator)]:
            yield _with(node, ops=[*node.ops[:place], other(), *node.ops[place + 1 :]])


def _constant(node, function):
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        lowest = 0 if hasattr(node, "counts_dimensions") else -math.inf
        others = dict.fromkeys((value + 1, value - 1, 0 * value, 2 * value, -value))
        yield from (ast.Constant(other) for other in others if other != value and other >= lowest)


def _condition(node, function):
    yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))


def _statement(node, function):
    """Take a statement away, unless all that follows is that a name is unknown."""
    targets = {one.id for one in getattr(node, "targets", []) if isinstance(one, ast.Name)}
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    if not is_text and all(_bound(function)[name] > 1 for name in targets):
        yield ast.Pass()


def _bound(function: ast.FunctionDef | None) -> Counter:
    """Count at how many places a function binds each name, arguments first."""
    nodes = list(ast.walk(function)) if function else []
    arguments = [node.arg for node in nodes if isinstance(node, ast.arg)]
    stored = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return Counter([*arguments, *stored])


def _returned(node, function):
    """Return another sign, order or variable, or no gradient."""
    if node.value is None:
        return
    several = isinstance(node.value, ast.Tuple)
    parts = node.value.elts if several else [node.value]
    back = lambda parts: ast.Return(ast.Tuple(parts, ast.Load()) if several else parts[0])  # noqa: E731
    for place, part in enumerate(parts):
        others = [ast.UnaryOp(ast.USub(), part)]
        if [one.arg for one in function.args.args[:1]] == ["self"]:  # of a network, which has to learn
            others.append(ast.Call(ast.Attribute(part, "detach", ast.Load()), [], []))
        mentioned = {one.id for one in ast.walk(part) if isinstance(one, ast.Name)}
        others += [
            ast.Name(name, ast.Load())
            for name in reversed(_bound(function))
            if name != "self" and (name not in mentioned or len(mentioned) > 1)
        ][:2]
        yield from (back([*parts[:place], other, *parts[place + 1 :]]) for other in others)
    if len(parts) > 1:
        yield from (
            back([*parts[:k], parts[k + 1], parts[k], *parts[k + 2 :]]) for k in range(len(parts) - 1)
        )


def _slice(node, function):
    one = ast.Constant(1)
    for field, edge in (("lower", node.lower), ("upper", node.upper)):
        if edge is None:
            yield _with(node, **{field: one if field == "lower" else ast.UnaryOp(ast.USub(), one)})
        elif not isinstance(edge, ast.Constant):
            yield from (_with(node, **{field: ast.BinOp(edge, op, one)}) for op in (ast.Add(), ast.Sub()))


def _name(node, function):
    """Take another function of the field, or no transpose."""
    field = "id" if isinstance(node, ast.Name) else "attr"
    if isinstance(node.ctx, ast.Load):
        for other in OTHER_FUNCTIONS.get(getattr(node, field), []):
            yield _with(node, **{field: other})
    if isinstance(node, ast.Attribute) and node.attr in UNNEEDED & {"T", "mT"}:
        yield node.value


def _call(node, function):
    name = _called(node)
    for place, (one, other) in enumerate(itertools.pairwise(node.args if name not in SYMMETRIC else [])):
        yield _with(node, args=[*node.args[:place], other, one, *node.args[place + 2 :]])
    for place, keyword in enumerate(node.keywords):
        if keyword.arg != "device":  # there is one
            yield _with(node, keywords=node.keywords[:place] + node.keywords[place + 1 :])
    if name in UNNEEDED and isinstance(node.func, ast.Attribute):
        yield node.args[0] if ast.unparse(node.func.value) == "torch" else node.func.value
    if name in KNOW_KEEPDIM and isinstance(node.func, ast.Attribute) and node.args:
        yield _with(node, keywords=[*node.keywords, ast.keyword("keepdim", ast.Constant(True))])
    if name == "range" and not isinstance(node.args[-1], ast.BinOp):
        yield _with(node, args=[*node.args[:-1], ast.BinOp(node.args[-1], ast.Sub(), ast.Constant(1))])


def _without_its_context(node, function):
    # Of the contexts that answers have, no_grad alone changes what follows.
    yield ast.If(ast.Constant(True), node.body, [])


CHANGES = {
    ast.BinOp | ast.BoolOp | ast.AugAssign: _operator,
    ast.UnaryOp: _sign,
    ast.Compare: _comparison,
    ast.Constant: _constant,
    ast.If | ast.While | ast.IfExp: _condition,
    ast.Assign | ast.AugAssign | ast.Expr | ast.Raise | ast.If | ast.For | ast.While: _statement,
    ast.Return: _returned,
    ast.Slice: _slice,
    ast.Name | ast.Attribute: _name,
    ast.Call: _call,
    ast.With: _without_its_context,
}
