"""The mutants of a module: its source with one expression or statement changed, made with libcst."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

_COMPARISONS: dict[type[cst.BaseCompOp], type[cst.BaseCompOp]] = {
    cst.LessThan: cst.LessThanEqual,
    cst.LessThanEqual: cst.LessThan,
    cst.GreaterThan: cst.GreaterThanEqual,
    cst.GreaterThanEqual: cst.GreaterThan,
    cst.Equal: cst.NotEqual,
    cst.NotEqual: cst.Equal,
    cst.Is: cst.IsNot,
    cst.IsNot: cst.Is,
    cst.In: cst.NotIn,
    cst.NotIn: cst.In,
}
_BINARY: dict[type[cst.BaseBinaryOp], type[cst.BaseBinaryOp]] = {
    cst.Add: cst.Subtract,
    cst.Subtract: cst.Add,
    cst.Multiply: cst.FloorDivide,
    cst.Divide: cst.Multiply,
    cst.FloorDivide: cst.Multiply,
    cst.Modulo: cst.FloorDivide,
    cst.BitAnd: cst.BitOr,
    cst.BitOr: cst.BitAnd,
    cst.BitXor: cst.BitAnd,
    cst.LeftShift: cst.RightShift,
    cst.RightShift: cst.LeftShift,
}
_AUGMENTED: dict[type[cst.BaseAugOp], type[cst.BaseAugOp]] = {
    cst.AddAssign: cst.SubtractAssign,
    cst.SubtractAssign: cst.AddAssign,
    cst.BitOrAssign: cst.BitAndAssign,
    cst.BitAndAssign: cst.BitOrAssign,
    cst.BitXorAssign: cst.BitOrAssign,
}
_CONSTANTS = {"True": "False", "False": "True"}
#: Names whose assignment is not mutated: they have no effect, or say things to type checkers.
_DECLARATIONS = frozenset(("__slots__", "__all__", "__match_args__"))
#: What is called for the log or for type checkers only.
_TEXTUAL = re.compile(
    r"(?:.*\.)?_?(?:log|logger|logging|failure_log|warnings)\.\w+|(?:.*\.)?(?:_?log|cast|TypeVar|ParamSpec|NewType|warn)", re.IGNORECASE
)
#: Methods that write to the log and do nothing else.
_LOGGING = frozenset(("_log",))
#: Points in time.  A clock never shows exactly such a point, so "<" and "<=" are the same beside one.
_TIMES = frozenset(("now", "deadline", "_deadline", "monotonic", "perf_counter"))


class Mutant(NamedTuple):
    """One change: where it is (the line counts from 1), its number within the module, and the code before and after.

    ``scope`` is the function or class around it, as in ``Class.method``; ``text`` is the line without indentation.
    """

    line: int
    scope: str
    text: str
    number: int
    before: str
    after: str


def mutants(source: str) -> list[Mutant]:
    """All mutants of ``source``, in the order of the source."""
    collector = _collect(source)
    code = cst.Module([]).code_for_node
    lines = source.splitlines()
    return [
        Mutant(line, scope, lines[line - 1].strip(), number, code(old).strip(), code(new).strip())
        for number, (line, scope, old, new) in enumerate(collector.found)
    ]


def mutated(source: str, number: int) -> str:
    """``source`` with its mutant ``number``."""
    collector = _collect(source)
    _, _, old, new = collector.found[number]
    changed = collector.module.deep_replace(old, new)
    assert isinstance(changed, cst.Module)
    return changed.code


def _collect(source: str) -> _Collector:
    wrapper = MetadataWrapper(cst.parse_module(source))
    collector = _Collector(wrapper.module)
    wrapper.visit(collector)
    return collector


class _Collector(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, module: cst.Module) -> None:
        super().__init__()
        self.module = module
        self.found: list[tuple[int, str, cst.CSTNode, cst.CSTNode]] = []
        self._scopes: list[str] = []
        #: Nodes below the one that is visited: operators beside a point in time, texts of an exception.
        self._timed: set[cst.CSTNode] = set()
        self._texts: set[cst.CSTNode] = set()

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _without_effect(node):
            return False
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            self._scopes.append(node.name.value)
        if isinstance(node, (cst.If, cst.While, cst.IfExp)) and _negatable(node.test):
            self._add(node.test, _negated(node.test))
        if isinstance(node, cst.Comparison) and _timed(node):
            self._timed.update(part.operator for part in node.comparisons)
        if isinstance(node, cst.Raise):
            self._texts.update(_texts_for_people(node))
        if node in self._texts or (node in self._timed and not isinstance(node, (cst.Equal, cst.NotEqual, cst.Is, cst.IsNot))):
            return False
        for new in _changed(node):
            self._add(node, new)
        return not isinstance(node, (cst.Import, cst.ImportFrom))

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, (cst.FunctionDef, cst.ClassDef)) and not _without_effect(original_node):
            self._scopes.pop()

    def _add(self, old: cst.CSTNode, new: cst.CSTNode) -> None:
        self.found.append((self.get_metadata(PositionProvider, old).start.line, ".".join(self._scopes), old, new))


def _dotted(node: cst.CSTNode) -> str:
    if isinstance(node, cst.Name):
        return node.value
    if isinstance(node, cst.Attribute):
        return f"{_dotted(node.value)}.{node.attr.value}"
    return ""


def _without_effect(node: cst.CSTNode) -> bool:
    """Whether nothing in ``node`` is mutated."""
    if isinstance(node, (cst.Annotation, cst.Decorator, cst.Assert, cst.FormattedString, cst.ConcatenatedString)):
        return True
    if isinstance(node, cst.Expr):
        return isinstance(node.value, (cst.SimpleString, cst.ConcatenatedString)) or (
            isinstance(node.value, cst.Call) and _textual(node.value)
        )
    if isinstance(node, cst.Call):
        return _textual(node)
    if isinstance(node, cst.FunctionDef):
        return node.name.value in _LOGGING
    if isinstance(node, cst.If):
        return "TYPE_CHECKING" in _dotted(node.test)
    if isinstance(node, cst.Assign):
        return any(_dotted(target.target) in _DECLARATIONS for target in node.targets)
    return isinstance(node, cst.AnnAssign) and "TypeAlias" in _dotted(node.annotation.annotation)


def _textual(call: cst.Call) -> bool:
    return _TEXTUAL.fullmatch(_dotted(call.func)) is not None


def _timed(node: cst.Comparison) -> bool:
    """Whether an operand is a point in time."""
    for operand in (node.left, *(part.comparator for part in node.comparisons)):
        name = _dotted(operand.func if isinstance(operand, cst.Call) else operand)
        if name.rpartition(".")[2] in _TIMES:
            return True
    return False


def _texts_for_people(node: cst.Raise) -> Iterator[cst.CSTNode]:
    """Arguments of an exception that are a text of one word."""
    if isinstance(node.exc, cst.Call):
        for argument in node.exc.args:
            if argument.keyword is None and isinstance(argument.value, cst.SimpleString) and "b" not in argument.value.prefix.lower():
                yield argument.value


def _empty(node: cst.BaseExpression) -> bool:
    """Whether ``node`` is a literal that is false, as None is: an own rule changes it."""
    return isinstance(node, (cst.Integer, cst.Float, cst.SimpleString)) and not node.evaluated_value


def _changed(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """What takes the place of ``node``, one mutant each."""
    if isinstance(node, cst.BaseCompOp):
        if other := _COMPARISONS.get(type(node)):
            yield other()
    elif isinstance(node, cst.BooleanOperation):
        yield node.with_changes(operator=cst.Or() if isinstance(node.operator, cst.And) else cst.And())
    elif isinstance(node, cst.UnaryOperation):
        if isinstance(node.operator, (cst.Not, cst.Minus)):
            yield node.expression.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    elif isinstance(node, cst.BinaryOperation):
        if operator := _BINARY.get(type(node.operator)):
            yield node.with_changes(operator=operator())
    elif isinstance(node, cst.AugAssign):
        if assignment := _AUGMENTED.get(type(node.operator)):
            yield node.with_changes(operator=assignment())
    elif isinstance(node, cst.Integer):
        yield cst.Integer(str(node.evaluated_value + 1))
    elif isinstance(node, cst.Float):
        yield cst.Float(repr(node.evaluated_value + 1))
    elif isinstance(node, cst.Name):
        if node.value in _CONSTANTS:
            yield node.with_changes(value=_CONSTANTS[node.value])
    elif isinstance(node, cst.SimpleString):
        yield from _strings(node)
    elif isinstance(node, cst.Break):
        yield cst.Continue()
    elif isinstance(node, cst.Continue):
        yield cst.Break()
    elif isinstance(node, cst.Expr):
        if isinstance(node.value, cst.Call):
            yield cst.Pass()
    elif isinstance(node, cst.Return):
        if node.value is not None and not (isinstance(node.value, cst.Name) and node.value.value in ("None", *_CONSTANTS)):
            yield node.with_changes(value=cst.Name("None"))
    elif isinstance(node, cst.Assign):
        target = isinstance(node.targets[0].target, (cst.Name, cst.Attribute))
        if target and not _empty(node.value) and not (isinstance(node.value, cst.Name) and node.value.value in ("None", *_CONSTANTS)):
            yield node.with_changes(value=cst.Name("None"))


def _negatable(test: cst.BaseExpression) -> bool:
    """Whether no other mutant negates ``test``."""
    if isinstance(test, cst.Comparison):
        return not isinstance(test.comparisons[0].operator, (cst.Equal, cst.NotEqual, cst.Is, cst.IsNot, cst.In, cst.NotIn))
    return not isinstance(test, cst.UnaryOperation) and not (isinstance(test, cst.Name) and test.value in _CONSTANTS)


def _negated(test: cst.BaseExpression) -> cst.UnaryOperation:
    return cst.UnaryOperation(cst.Not(), test.with_changes(lpar=[cst.LeftParen(), *test.lpar], rpar=[*test.rpar, cst.RightParen()]))


def _strings(node: cst.SimpleString) -> Iterator[cst.SimpleString]:
    """Another value; texts for people, which have blanks between words, are left as they are."""
    value = node.evaluated_value
    if isinstance(value, str) and " " in value.strip():
        return
    start = len(node.prefix) + len(node.quote)
    yield node.with_changes(value=f"{node.value[:start]}XX{node.value[start:]}")
