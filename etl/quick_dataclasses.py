"""Dataclasses that are made in a tenth of the time: a small load makes more than a hundred of them before it begins.

The decorator of the standard library writes the methods of each class as text and compiles it. Here the classes share
their methods, which look the fields up when they are called. Use it in the rooms that a load
enters, but for classes with `slots`.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError
from typing import Any, TypeVar, dataclass_transform

C = TypeVar("C", bound=type[Any])

_set = object.__setattr__


@dataclass_transform(field_specifiers=(dataclasses.field,))
def dataclass(*, frozen: bool = False, kw_only: bool = False, eq: bool = True) -> Callable[[C], C]:
    """Make a class a dataclass, as `dataclasses.dataclass` does with these arguments."""

    def made(cls: C) -> C:
        own = vars(cls)
        is_derived = any(dataclasses.is_dataclass(each) for each in cls.__mro__[1:])
        # The standard library compares a derived class with the one above it; else it need not make the two methods.
        dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=kw_only, frozen=frozen and is_derived)(cls)
        cls.__dataclass_params__.frozen = frozen
        cls.__shape__ = None
        methods: dict[str, Any] = {"__init__": _init, "__repr__": _repr}
        if eq:
            methods |= {"__eq__": _eq, "__hash__": _hash if frozen else None}
        if frozen:
            methods |= {"__setattr__": _refuse, "__delattr__": _refuse}
        for name, method in methods.items():
            if name not in own:
                setattr(cls, name, method)
        return cls

    return made


class _Shape:
    """The fields of a class: their defaults in their order, and those that have none."""

    def __init__(self, cls: type[Any]) -> None:
        fields = dataclasses.fields(cls)
        self.cls = cls
        self.defaults = {each.name: each.default for each in fields}
        self.factories = [(each.name, each.default_factory) for each in fields if each.default_factory is not MISSING]
        self.required = {each.name for each in fields if each.default is each.default_factory is MISSING}
        self.by_position = [each.name for each in fields if not each.kw_only]
        self.has_more = hasattr(cls, "__post_init__")
        self.shown = [each.name for each in fields if each.repr]
        self.compared = [each.name for each in fields if each.compare]


def _shape(cls: Any) -> _Shape:
    """Return the fields of a class, as they were looked up for its first object."""
    shape: _Shape | None = cls.__shape__
    if shape is None or shape.cls is not cls:
        shape = cls.__shape__ = _Shape(cls)
    return shape


def _init(self: Any, /, *args: Any, **given: Any) -> None:
    cls = type(self)
    shape = cls.__shape__
    if shape is None or shape.cls is not cls:
        shape = _shape(cls)
    if args:
        given |= zip(shape.by_position, args, strict=False)
    values = shape.defaults | given
    if len(values) > len(shape.defaults) or len(args) > len(shape.by_position) or not shape.required <= given.keys():
        wrong = sorted((given.keys() - shape.defaults.keys()) | (shape.required - given.keys()))
        raise TypeError(f"{shape.cls.__qualname__}: missing or unexpected arguments: {', '.join(wrong)}")
    for name, make in shape.factories:
        if name not in given:
            values[name] = make()
    for name, value in values.items():
        _set(self, name, value)
    if shape.has_more:
        self.__post_init__()


def _repr(self: Any) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in _shape(type(self)).shown)
    return f"{type(self).__qualname__}({shown})"


def _compared(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in _shape(type(self)).compared])


def _eq(self: Any, other: object) -> bool:
    return NotImplemented if type(other) is not type(self) else _compared(self) == _compared(other)


def _hash(self: Any) -> int:
    return hash(_compared(self))


def _refuse(self: Any, name: str, *_: Any) -> None:
    raise FrozenInstanceError(f"cannot change field {name!r} of {type(self).__qualname__}")
