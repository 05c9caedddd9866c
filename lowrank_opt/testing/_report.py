"""Which checks ran, and how they ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lowrank_opt.core import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["CheckReport", "NotApplicable", "run_checks"]


class NotApplicable(Exception):
    """Raised by a check that has nothing to test here; the message says why."""


@dataclass(frozen=True)
class CheckReport:
    """Which checks passed and which did not apply.

    Parameters
    ----------
    subject : str
        What was checked.
    passed : tuple of str
        Names of checks.
    not_applicable : mapping of str to str
        Name of the check to the reason.
    """

    subject: str
    passed: tuple[str, ...]
    not_applicable: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.subject}: {len(self.passed)} checks passed"]
        lines += [f"  passed          {name}" for name in self.passed]
        lines += [f"  not applicable  {name}: {why}" for name, why in self.not_applicable.items()]
        return "\n".join(lines)


def run_checks(
    subject: str,
    case: Any,
    names: list[str],
    table: Mapping[str, Callable[[Any], None]],
    not_applicable: Mapping[str, str],
) -> CheckReport:
    """Run the checks called `names`; raise one AssertionError that lists all failures."""
    for name in (*names, *not_applicable):
        if name not in table:
            raise ParameterError(f"there is no check {name!r}; the checks are {', '.join(table)}")
    passed, skipped, failed = [], {}, {}
    for name in names:
        if name in not_applicable:
            skipped[name] = not_applicable[name]
            continue
        try:
            table[name](case)
        except NotApplicable as reason:
            skipped[name] = str(reason)
        except Exception as error:
            failed[name] = error
        else:
            passed.append(name)
    if failed:
        lines = [f"{subject} fails {len(failed)} of {len(names)} checks:"]
        for name, error in failed.items():
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            lines.append(f"  {name}: {kind}{error}")
        raise AssertionError("\n".join(lines)) from next(iter(failed.values()))
    return CheckReport(subject, tuple(passed), skipped)
