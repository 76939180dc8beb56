"""The calculator that the agents use: arithmetic on numbers, and nothing else that Python can do."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

Number = int | float

_OPERATORS: dict[type[ast.AST], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_LONGEST = 80
_DECIMALS = 4


def calculate(expression: str) -> str:
    """Computes an expression of numbers, `+ - * / %` and brackets.

    Args:
        expression: what a model wrote; anything at all.

    Returns:
        The value, rounded to four decimals, whole numbers without a point; or `Error: …`, for the model to read.
    """
    try:
        return show(evaluate(expression))
    except (ValueError, ArithmeticError) as error:
        return f"Error: {error}"


def evaluate(expression: str) -> Number:
    """The value of an expression.

    Raises:
        ValueError: it is no arithmetic.
        ArithmeticError: it divides by zero or its value is too large.
    """
    if len(expression) > _LONGEST:
        raise ValueError("too long")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError("not arithmetic") from None
    return _value(tree.body)


def _value(node: ast.AST) -> Number:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("not arithmetic")


def show(value: Number) -> str:
    """A value as the calculator writes it."""
    rounded = round(value, _DECIMALS)
    return str(int(rounded)) if rounded == int(rounded) else str(rounded)
