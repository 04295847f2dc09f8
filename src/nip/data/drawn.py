"""ListOps as a source: drawn by its rule."""

from __future__ import annotations

from dataclasses import asdict, fields

from nip.data.listops import Rule
from nip.data.plans import Plan, Request
from nip.data.sampling import generate
from nip.data.tasks import SPLITS


def plan_listops(request: Request) -> Plan:
    """Draw a set; parameters are the numbers of examples ``train``, ``dev`` and ``test``, and those of `Rule`."""
    names = {field.name for field in fields(Rule)}
    rule = Rule(**{name: value for name, value in request.parameters.items() if name in names})
    n_train, n_dev, n_test = (
        request.parameters.get(split, size) for split, size in zip(SPLITS, request.task.sizes, strict=True)
    )
    sizes = (n_train, n_dev, n_test)
    return Plan(
        {
            "source": "drawn by nip",
            "parameters": {"seed": request.seed, **dict(zip(SPLITS, sizes, strict=True)), **asdict(rule)},
            "split_rule": "In the order drawn: first train, then dev, then test. No example occurs twice in the set.",
            "licence": "Made from random numbers, it holds nobody's text. The rule is that of Long Range Arena "
            "(Apache-2.0, arXiv 2011.04006), after ListOps (arXiv 1804.06028).",
        },
        lambda: generate(rule, sizes, seed=request.seed, progress=request.progress),
    )
