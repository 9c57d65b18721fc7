"""Which data sets of reasoning-gym are offered, and how their scorers are kept from executing what a model wrote.

All scorers of reasoning-gym 0.1.25 were read. Of its 106 data sets five are refused: four give full marks to an answer
that solves nothing, and one has no problems of its own. Eight of the others evaluate the answer as Python: here they
get a reader of literals or of formulas instead. Another version is refused until its scorers are read; the tests have
the calls of eval and of its kind that were found, and show why the five are refused.
"""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

VERSION = "0.1.25"
REFUSED = {
    "coin_flip": "its scorer gives the answer 0 full marks unless the right one is 1",
    "complex_arithmetic": "its scorer gives the answer nan full marks",
    "composite": "it has no problems of its own",
    "game_of_life_halting": "its scorer gives any answer full marks",
    "puzzle24": "its scorer does not look at the four numbers of the problem",
}
EVAL = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")  # score_answer calls eval(answer)
PARSE_EXPR = ("countdown", "intermediate_integration", "polynomial_multiplication", "simple_integration")  # SymPy's

# What a formula may consist of. SymPy's parse_expr turns a text into Python code and evaluates that: with these parts
# alone it can reach neither an attribute, nor a string, nor a function that does more than to compute.
_NAME = r"(?:sin|cos|tan|cot|sec|csc|asin|acos|atan|sinh|cosh|tanh|exp|log|ln|sqrt|Abs|erf|pi|[A-Za-z])"
_FORMULA = re.compile(rf"(?:\d+(?:\.\d*)?(?![\w.])|\.\d+(?![\w.])|{_NAME}(?![\w.])|[-+*/^()]|\s)*", re.ASCII)


def version_problem() -> str | None:
    """Return what is wrong with the installed reasoning-gym; None if it is the one whose scorers were read."""
    try:
        installed = version("reasoning-gym")
    except PackageNotFoundError:
        installed = "not installed"
    if installed == VERSION:
        return None
    return (
        f"task=reasoning_gym must have reasoning-gym {VERSION}, but it is {installed}; do: pip install -e "
        "'.[reasoning-gym]' (it needs a C compiler and Python's headers)"
    )


def made_safe(name: str, module: ModuleType) -> None:
    """Replace, in this process, what the scorer in a data set's module would evaluate an answer with."""
    if name in EVAL:
        module.__dict__["eval"] = ast.literal_eval
    if name in PARSE_EXPR:
        import sympy

        parse = sys.modules["sympy.parsing.sympy_parser"].parse_expr

        def formula(text: str, *others: Any, **named: Any) -> Any:
            if _FORMULA.fullmatch(text) is None:
                raise ValueError("not a formula")
            return parse(text, *others, **named)

        module.__dict__["parse_expr"] = sympy.parse_expr = formula
