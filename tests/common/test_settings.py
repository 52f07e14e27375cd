"""Facts about a key stand at its field, and are found with its value."""

from __future__ import annotations

from dataclasses import dataclass, field

from dcp_runner.common.settings import Facts, Setting, setting, settings


@dataclass
class Inner:
    steps: int | None = setting(None, at_least=1)
    plain: str = "x"


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    names: dict[str, int] = setting(default_factory=dict, open=True)


def test_every_key_with_its_facts() -> None:
    assert Inner.steps is None and Outer().names is not Outer().names
    assert list(settings(Outer(Inner(steps=3)))) == [
        Setting("inner", Inner(steps=3), Facts()),
        Setting("inner.steps", 3, Facts(at_least=1)),
        Setting("inner.plain", "x", Facts()),
        Setting("names", {}, Facts(open=True)),
    ]
