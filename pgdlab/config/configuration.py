"""The configuration of a run as plain data, and the objects of its nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pgdlab.config.schema import ConfigError, check, complete, make

T = TypeVar("T")
UNSAVED = {"nodes", "objects", "command"}  # the fields that are no key of config.yaml


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run, as it is stated. nodes: what each slot holds, as mappings, lists and scalars; None where it is empty.

    What a program adds, and no file has: objects, which stand in the place of a slot's own, and command, how it asked for
    the run.
    """

    task: str
    name: str | None = None  # of the run's folder under runs/
    seed: int = 0
    resume: str | None = None  # a run's folder to go on with
    sweep: str | None = None  # the file of task=sweep
    nodes: Mapping[str, Any]
    objects: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None

    @staticmethod
    def of(values: Mapping[str, Any]) -> Config:
        """A configuration as config.yaml has it: scalars and nodes side by side."""
        own = {f.name for f in dataclasses.fields(Config)} - UNSAVED
        nodes = {key: value for key, value in values.items() if key not in own}
        return Config(**{key: value for key, value in values.items() if key in own}, nodes=nodes)

    def plain(self) -> dict[str, Any]:
        """As config.yaml has it."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in UNSAVED}
        return own | dict(self.nodes)

    def with_nodes(self, **nodes: Any) -> Config:
        """With other nodes in some slots."""
        return dataclasses.replace(self, nodes={**self.nodes, **nodes})

    def make(self, kind: type[T], slot: str, **given: Any) -> T:
        """The object of a slot, which must be a `kind`. given: arguments that only the running program has."""
        if slot in self.objects:
            thing = self.objects[slot]
            if not isinstance(thing, kind):
                raise ConfigError(f"{slot} is a {type(thing).__name__}; it must be a {kind.__name__}")
            return thing
        return make(kind, self.nodes[slot], slot, **given)

    def make_each(self, kind: type[T], slot: str, **given: Any) -> dict[str, T]:
        """The objects of a slot that takes many, by name."""
        return {name: make(kind, node, f"{slot}.{name}", **given) for name, node in self.nodes[slot].items()}

    def stated(self, kind: type[T], slot: str) -> T:
        """The object of an optional slot, over the defaults of `kind`: its _target_ need not be given."""
        given = {"_target_": f"{kind.__module__}.{kind.__qualname__}"}
        node = complete(given | (self.nodes.get(slot) or {}), slot)
        check(node, slot)
        return make(kind, node, slot)
