"""One turn: a prompt, an output, the end."""

from __future__ import annotations

from dataclasses import dataclass

from saccade.core.content import Content, Text
from saccade.core.environment import Environment, EnvironmentSpec, Step
from saccade.core.errors import ConfigError
from saccade.core.trajectory import Task


def check_template(template: str) -> None:
    """Raise ``ConfigError`` unless ``{prompt}`` occurs exactly once."""
    if template.count("{prompt}") != 1:
        raise ConfigError(f"env.template must contain {{prompt}} once, got {template!r}")


def framed(content: Content, template: str) -> Content:
    """The prompt with the template's text before its first and after its last text part.

    Pictures stay where they are. A prompt without text gets the template's text as its last part.
    """
    before, _, after = template.partition("{prompt}")
    if not before and not after:
        return content
    where = [i for i, part in enumerate(content) if isinstance(part, Text)]
    if not where:
        return (*content, Text(before + after))
    first, last = where[0], where[-1]
    return tuple(
        Text((before if i == first else "") + part.text + (after if i == last else ""))
        if isinstance(part, Text)
        else part
        for i, part in enumerate(content)
    )


@dataclass(frozen=True)
class SingleTurn(EnvironmentSpec):
    """Prompt, one output, stop."""

    template: str = "{prompt}"
    """Text around the text of every task's prompt; contains ``{prompt}`` once."""

    def __post_init__(self) -> None:
        check_template(self.template)
        if self.max_turns != 1:
            raise ConfigError(f"env.max_turns must be 1 in an environment of one turn, got {self.max_turns}")

    def prompt(self, task: Task) -> Content:
        return framed(task.prompt, self.template)

    def make(self) -> SingleTurnEnvironment:
        return SingleTurnEnvironment()


class SingleTurnEnvironment(Environment):
    """Takes any output and ends."""

    def reset(self, task: Task, seed: int) -> None:
        return None

    def step(self, output: Content) -> Step:
        return Step(terminated=True)
