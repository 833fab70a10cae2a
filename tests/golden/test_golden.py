"""Twenty steps of five kinds of method, step by step against recorded losses and gradient norms.

Regenerate with ``python tests/golden/test_golden.py`` (from the checkout, ``tests`` on the path) and give the reason in
the commit.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from learn.test_loop import KINDS, Recorder
from saccade.learn.loop import Run, train

CURVES = Path(__file__).parent / "curves.json"
NAMES = ("grpo", "gspo", "ppo", "dpo", "sft")
KEYS = ("loss/total", "policy/grad_norm", "reward")


def curve(name: str) -> dict[str, list[float]]:
    chosen = KINDS[name]
    seen = Recorder()
    train(replace(chosen, train=replace(chosen.train, steps=20)), Run(observers=[seen]))
    return {key: [record[key] for record in seen.records] for key in KEYS}


@pytest.mark.parametrize("name", NAMES)
def test_curve_is_the_recorded_one(name):
    recorded = json.loads(CURVES.read_text())[name]
    found = curve(name)
    for key in KEYS:
        assert found[key] == pytest.approx(recorded[key], rel=1e-4, abs=1e-6), key
        # Small one-sided drifts pass a tolerance step by step; their mean does not.
        residual = sum(a - b for a, b in zip(found[key], recorded[key], strict=True)) / len(found[key])
        assert abs(residual) < 1e-5, key


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    curves = {name: {key: [round(x, 8) for x in xs] for key, xs in curve(name).items()} for name in NAMES}
    CURVES.write_text(json.dumps(curves, indent=1) + "\n")
