"""What the target of a config node takes: its parameters, and their values as far as annotations say."""

import importlib
import inspect
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


def expected(annotation: Any, value: Any) -> str:
    """What should stand in the place of ``value``, in words; empty where it fits, or where that cannot be told.

    Only unions of plain types and literals are looked at: what else a parameter may take is its own to check.

    >>> expected(int | None, 2.5), expected(float, 1), expected(Literal["a", "b"], "c"), expected(list[int], "x")
    ('a whole number or null', '', "'a' or 'b'", '')
    """
    parts = alternatives(annotation)
    kinds = [part for part in parts if part in WORDS]
    choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    known = len(kinds) + sum(get_origin(part) is Literal for part in parts) == len(parts)
    if not known or isinstance(value, (list, dict)) or any(value == c and type(value) is type(c) for c in choices):
        return ""
    if any(type(value) is kind or (kind is float and type(value) is int) for kind in kinds):
        return ""
    return " or ".join([WORDS[kind] for kind in kinds] + [repr(choice) for choice in choices])


def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, those of unions within it too; a path may be written as text."""
    if get_origin(annotation) in (Union, UnionType):
        return list(dict.fromkeys(part for member in get_args(annotation) for part in alternatives(member)))
    return [{Path: str, None: NoneType}.get(annotation, annotation)]


def annotations(target: Any) -> dict[str, Any]:
    """What the parameters of a class or function take, by name; without those that say nothing.

    Raises:
        ValueError: If it has no signature.
    """
    try:
        found = inspect.signature(target, eval_str=True).parameters
    except (NameError, AttributeError, TypeError):  # a library may name there what only its type checker knows
        return {}
    return {name: p.annotation for name, p in found.items() if p.annotation is not inspect.Parameter.empty}


def located(target: str) -> Any:
    """The class or function that a dotted name stands for.

    Raises:
        ValueError: If there is no such thing.
    """
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"`_target_: {target}` cannot be found: {error}") from error


def parameters(target: Any) -> set[str] | None:
    """Names that a class or function takes as keywords; None where it takes any.

    Raises:
        ValueError: If it cannot be called.
    """
    try:
        found = inspect.signature(target).parameters
    except (TypeError, ValueError) as error:
        raise ValueError(f"`_target_: {target}` cannot be built: {error}") from error
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found.values()):
        return None
    return {name for name, p in found.items() if p.kind is not inspect.Parameter.VAR_POSITIONAL}
