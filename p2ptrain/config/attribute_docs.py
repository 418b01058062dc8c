"""The docstrings below a dataclass's fields, which Python itself does not keep."""

import ast
import inspect
import sys
from dataclasses import fields
from functools import cache
from typing import Any


def attribute_docs(kind: type[Any]) -> dict[str, str]:
    """Field to what stands below it, in one line; fields without are left out."""
    # By name in the module's syntax tree: getsource looks for the class in the same file, a little each time.
    for definition in _module_of(kind.__module__).body:
        if isinstance(definition, ast.ClassDef) and definition.name == kind.__name__:
            break
    else:
        return {}
    known = {field.name for field in fields(kind)}
    found: dict[str, str] = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            if field.target.id in known:
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


@cache
def _module_of(name: str) -> ast.Module:
    return ast.parse(inspect.getsource(sys.modules[name]))
