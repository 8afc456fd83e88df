# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway's cases as tests: each probe, flow and seeded mistake of each case is one.

A module has its cases in ``CASES``; the fixture ``outcome`` carries each out once.
"""

from collections.abc import Callable, Mapping

import pytest

from tests.leaks.probes import Case, Outcome

#: What was found about a case, by its name.
Find = Callable[[str], Outcome]


def each(cases: Mapping[str, Case], what: str) -> pytest.MarkDecorator:
    """A parameter set: every one of ``what`` (a field of ``Case``) of every case, named by both."""
    items = [(name, item) for name, made in cases.items() for item in getattr(made, what)]
    ids = [f"{name} {getattr(item, 'id', item.name)}" for name, item in items]
    return pytest.mark.parametrize(("name", "item"), items, ids=ids)
