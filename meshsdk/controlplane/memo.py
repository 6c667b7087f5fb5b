"""What is kept of a translation for the next one, so that an edit costs what it reaches.

Theory of operation. A translation is steps within steps: a file is read, and in it each document; a service gets its
endpoints; a service and its rules become clusters. Each step has a key, and is given everything that it looks at. As
long as that equals what it was given the last time, its result is kept, the same object, and so are the steps inside;
else it is carried out anew, and the steps inside of it are asked in the same way. What no step asks for is forgotten.

So what comes of an edit equals what would be made from nothing, if two rules are kept. A step looks at nothing but its
inputs: where those are many they are one tuple (`RouteInputs`), and its functions are given nothing else. One that has
to look elsewhere says that its result does not last, and is carried out anew each time. And inputs and results never
change: what is made of them is another object.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from msgspec import Struct

__all__ = ["Memo"]

T = TypeVar("T")


class _Step(Struct, frozen=True):
    inputs: tuple[object, ...]
    result: Any
    inside: Mapping[Hashable, _Step]
    lasts: bool


# Inside of most steps.
_NOTHING: Mapping[Hashable, _Step] = {}


class Memo:
    """The steps of one translation.

    Args:
        before: Those of the translation before it.

    Attributes:
        lasts: What is made of these steps stays what it is while their inputs do. A step that looked at something else,
            such as whether there is a file, sets it to False: it, and those that it is inside of, are not kept.
    """

    __slots__ = ("_before", "_steps", "lasts")

    def __init__(self, before: Memo | None = None) -> None:
        self._before: Mapping[Hashable, _Step] = before._steps if before is not None else {}
        self._steps: dict[Hashable, _Step] = {}
        self.lasts = True

    def keep(self, key: Hashable, inputs: tuple[object, ...], make: Callable[[Memo], T]) -> T:
        """The result of a step.

        Args:
            key: Of the step, among those beside it.
            inputs: All that it looks at. They are compared as they stand, and what is the same object is equal.
            make: Carries it out, with a Memo for the steps inside.
        """
        known = self._before.get(key)
        if known is None or not known.lasts or known.inputs != inputs:
            inside = Memo()
            if known is not None:
                inside._before = known.inside
            made = make(inside)
            known = _Step(inputs, made, inside._steps or _NOTHING, inside.lasts)
        self._steps[key] = known
        self.lasts &= known.lasts
        result: T = known.result
        return result
