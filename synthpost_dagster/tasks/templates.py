"""Prompt templates: a restricted Jinja, so that a task folder from anyone is safe to render.

A template gets plain data only (text, numbers, lists and dictionaries) and has text, `{{ values }}`, conditions and
loops over that data. Calls, methods, macros, assignments, imports and filters other than FILTERS are refused with their
line when the task is read. The rest cannot reach Python and is limited: loops by MAX_STEPS, values by MAX_VALUE, the
prompt by MAX_PROMPT.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, cast

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS as JINJA_TESTS
from jinja2.visitor import NodeTransformer

from synthpost_dagster.errors import SpecError

MAX_SOURCE = 256_000
"""Characters of a template."""
MAX_PROMPT = 4_000_000
"""Characters of a prompt."""
MAX_VALUE = 100_000
"""Characters of a value that a template concatenates."""
MAX_STEPS = 50_000
"""Steps of all loops of one prompt: iterations times the nodes of the loop's body."""
MAX_NUMBER = 1e15
_STEPS = "_steps"
_COUNTED = "_counted"
_ALLOWED = "use text, values, filters, conditions and loops"

_FILTERS = (
    "capitalize", "count", "d", "default", "first", "last", "length", "list", "lower", "reverse", "sort", "string",
    "title", "trim", "unique", "upper", "wordcount",
)  # fmt: skip
_TESTS = (
    "defined", "undefined", "none", "string", "number", "mapping", "sequence", "true", "false", "odd", "even", "in",
    "eq", "ne", "lt", "le", "gt", "ge", "equalto", "==", "!=", "<", "<=", ">", ">=",
)  # fmt: skip
_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem, nodes.If,
    nodes.For, nodes.CondExpr, nodes.And, nodes.Or, nodes.Not, nodes.Compare, nodes.Operand, nodes.Filter, nodes.Test,
    nodes.Concat, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Neg, nodes.Pos,
    nodes.List, nodes.Tuple, nodes.Keyword,
)  # fmt: skip
_NAMES = {
    nodes.Call: "a call", nodes.Assign: "an assignment", nodes.AssignBlock: "an assignment", nodes.Macro: "a macro",
    nodes.Pow: "a power", nodes.Slice: "a slice", nodes.Dict: "a dictionary",
}  # fmt: skip
_LOOP = ("index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem")


def _check_length(characters: int) -> None:
    if characters > MAX_VALUE:
        raise SecurityError(f"a value of more than {MAX_VALUE:,} characters")


def _join(value: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    parts, size = [], 0
    for item in value if attribute is None else _map(value, attribute):
        parts.append(str(item))
        size += len(parts[-1]) + len(separator)
        _check_length(size)
    return str(separator).join(parts)


def _map(value: Iterable[Any], attribute: str) -> list[Any]:
    return [item[attribute] for item in value]


def _replace(text: str, old: str, new: str) -> str:
    _check_length(text.count(old) * len(new))
    return text.replace(old, new)


@pass_context
def _counted(context: Context, items: Any, parts: int) -> Iterator[Any]:
    """The items of a loop; each counts as `parts` steps."""
    steps = context[_STEPS]
    for item in items:
        steps[0] += parts
        if steps[0] > MAX_STEPS:
            raise SecurityError(f"loops with more than {MAX_STEPS:,} steps")
        yield item


FILTERS: dict[str, Callable[..., Any]] = {
    **{name: JINJA_FILTERS[name] for name in _FILTERS},
    "join": _join,
    "map": _map,
    "replace": _replace,
}


class _Environment(ImmutableSandboxedEnvironment):
    """Attributes are keys of the data; arithmetic works on numbers, and `+` on short texts."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%"})

    def __init__(self) -> None:
        # The output is a prompt for a model, not a page, so it is not escaped.
        super().__init__(undefined=StrictUndefined, autoescape=False, trim_blocks=False, keep_trailing_newline=False)
        self.globals = {}
        self.filters = {**FILTERS, _COUNTED: _counted}
        self.tests = {name: JINJA_TESTS[name] for name in _TESTS}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A key of a dictionary, or an attribute of a loop in _LOOP; never a Python attribute."""
        if isinstance(obj, LoopContext) and attribute in _LOOP:
            return getattr(obj, attribute)
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        if isinstance(obj, Undefined):
            return obj
        keys = f"; its keys are {', '.join(obj)}" if isinstance(obj, dict) else ""
        return self.undefined(f"there is no attribute {attribute!r}{keys}")

    def getitem(self, obj: Any, argument: Any) -> Any:
        """A key of a dictionary, or an item of a list."""
        if isinstance(obj, (list, tuple, str)) and isinstance(argument, int) and -len(obj) <= argument < len(obj):
            return obj[argument]
        return self.getattr(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operation on two numbers, or the concatenation of two texts."""
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            _check_length(len(left) + len(right))
        elif not all(isinstance(value, (int, float)) and abs(value) < MAX_NUMBER for value in (left, right)):
            raise SecurityError(
                f"`{operator}` between values that are not two numbers" + (" or texts" * (operator == "+"))
            )
        return super().call_binop(context, operator, left, right)


class PromptTemplate:
    """A compiled template of one file. Raises SpecError naming file and line if it is invalid."""

    def __init__(self, source: str, file: str) -> None:
        self._file = file
        if len(source) > MAX_SOURCE:
            raise SpecError(f"{file}: longer than {MAX_SOURCE:,} characters; shorten the template")
        environment = _Environment()
        try:
            tree = environment.parse(source)
            _check(tree)
            tree = _Bounds().visit(tree).set_environment(environment)
            self._template = Template.from_code(environment, environment.compile(tree, filename=file), {})
        except TemplateSyntaxError as error:
            raise self._error(str(error.message), error.lineno) from None
        except (RecursionError, MemoryError, SyntaxError):
            raise SpecError(f"{file}: nested too deeply; correct the template") from None
        except (TemplateError, ValueError, ArithmeticError) as error:
            raise self._error(str(error), 0) from None

    def render(self, names: Mapping[str, Any]) -> str:
        """The prompt, without white space at its ends. Raises SpecError naming file and line."""
        parts, size = [], 0
        try:
            for part in self._template.generate({**names, _STEPS: [0]}):
                parts.append(part)
                size += len(part)
                if size > MAX_PROMPT:
                    raise SecurityError(f"a prompt of more than {MAX_PROMPT:,} characters")
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise self._error(str(error), _line(error, self._file)) from None
        return "".join(parts).strip()

    def _error(self, message: str, line: int) -> SpecError:
        return SpecError(f"{self._file}: {message}{f' (line {line})' if line else ''}; correct the template")


@lru_cache(maxsize=32)
def compiled(source: str, file: str) -> PromptTemplate:
    """The template of a file's text."""
    return PromptTemplate(source, file)


def _line(error: BaseException, file: str) -> int:
    """The line of the template that raised an error; 0 if unknown."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _check(tree: nodes.Template) -> None:
    """Raises TemplateSyntaxError for syntax that prompts may not use."""
    for node in tree.find_all(nodes.Node):
        if not isinstance(node, _NODES):
            what = _NAMES.get(type(node), f"`{type(node).__name__.lower()}`")
            line = node.lineno or next((child.lineno for child in node.find_all(nodes.Node) if child.lineno), 0)
            raise TemplateSyntaxError(f"{what} is not allowed in a prompt; {_ALLOWED}", line)
        if isinstance(node, nodes.Name) and (node.name == "self" or node.name.startswith("_")):
            raise TemplateSyntaxError(f"{node.name!r} is undefined", node.lineno)
        if isinstance(node, nodes.Filter) and node.name not in FILTERS:
            message = f"no filter {node.name!r}; there are {', '.join(sorted(FILTERS))}"
            raise TemplateSyntaxError(message, node.lineno)
        if isinstance(node, (nodes.Filter, nodes.Test)) and (node.dyn_args or node.dyn_kwargs):
            raise TemplateSyntaxError("`*` before an argument is not allowed in a prompt", node.lineno)
        if isinstance(node, nodes.For) and node.recursive:
            raise TemplateSyntaxError("a recursive loop is not allowed in a prompt", node.lineno)


class _Bounds(NodeTransformer):
    """Makes every loop count its steps, and `~` check the length of its result."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - as Jinja calls it
        parts = 1 + sum(1 for child in node.body for _ in child.find_all(nodes.Node))
        self.generic_visit(node)
        node.iter = _filter(node.iter, _COUNTED, node.lineno, nodes.Const(parts))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802 - as Jinja calls it
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes), "join", node.lineno)


def _filter(value: nodes.Node, name: str, line: int, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, value), name, list(arguments), [], None, None, lineno=line)
