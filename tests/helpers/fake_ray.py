"""As much of ray as `on_ray` uses, in this process: a call runs when it is asked for, and a worker may die of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class Call:
    """A call that has not run yet."""

    def __init__(self, ray: FakeRay, actor: Actor, name: str, args: Sequence[Any]) -> None:
        self.ray, self.actor, self.name, self.args = ray, actor, name, args

    def result(self) -> Any:
        if self.actor.dead or self.ray.dies(self.actor.number, self.name, self.args):
            self.actor.dead = True
            raise RayError("The actor died unexpectedly\nWorker exit detail: killed")
        return getattr(self.actor.own, self.name)(*self.args)


class Actor:
    def __init__(self, ray: FakeRay, own: Any, number: int) -> None:
        self.ray, self.own, self.number, self.dead = ray, own, number, False

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *args: Call(self.ray, self, name, args))


class FakeRay:
    """`dies(number of the worker, name of the call, its arguments)` says whether the worker dies in it."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, dies: Callable[[int, str, Sequence[Any]], bool] = lambda *_: False) -> None:
        self.dies, self.actors, self.killed = dies, list[Actor](), list[Actor]()
        self.wanted: dict[str, Any] = {}

    def remote(self, **options: Any) -> Callable[[type[Any]], Any]:
        self.wanted = options

        def actor(kind: type[Any]) -> Any:
            def make(*args: Any) -> Actor:
                self.actors.append(Actor(self, kind(*args), len(self.actors)))
                return self.actors[-1]

            return SimpleNamespace(remote=make)

        return actor

    def wait(self, calls: Sequence[Call], num_returns: int = 1, timeout: float = 0) -> tuple[list[Call], list[Call]]:
        return [*calls[:num_returns]], [*calls[num_returns:]]

    def get(self, call: Call) -> Any:
        return call.result()

    def kill(self, actor: Actor) -> None:
        assert actor not in self.killed
        self.killed.append(actor)
