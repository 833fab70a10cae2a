"""The committed results of ablations: complete, of recipes that exist, and their verdicts follow from their numbers."""

import json
import math
from pathlib import Path

import pytest

from saccade.cli.catalogue import catalogue

FOLDER = Path(__file__).parent.parent / "benchmarks" / "ablations"
FILES = sorted(FOLDER.glob("*.json"))
KEYS = {
    "method", "pillar", "mechanism", "metric", "seeds", "with", "without", "difference", "stderr", "margin", "verdict",
    "command", "commit", "versions", "seconds", "note",
}  # fmt: skip
NAMED = (
    "repic", "grpo_care", "star_r1", "ground_r1", "racro", "tw_grpo", "vilasr",
    "ddpo", "dpok", "diffppo", "diffusion_dpo", "diffusion_kto", "image_reward", "refl", "parrot", "b2_diffurl",
    "flow_grpo", "mixgrpo", "diffusion_nft", "awm",
    "gui_r1", "mobilegui_rl", "gta1", "progrm", "vln_r1", "flare", "rlvla", "ript_vla", "tgrpo",
    "corl", "hermesflow", "emu3", "inflvg", "dream_reward", "dance_grpo", "video_reward",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_every_named_method_has_a_result(name):
    assert (FOLDER / f"{name}.json").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_verdict_follows_from_the_numbers(path):
    result = json.loads(path.read_text())
    assert result.keys() >= KEYS
    assert result["method"] == path.stem
    assert len(result["seeds"]) == len(result["with"]) == len(result["without"]) >= 3
    sign = 1 if result["higher_is_better"] else -1
    gains = [sign * (a - b) for a, b in zip(result["with"], result["without"], strict=True)]
    mean = sum(gains) / len(gains)
    stderr = math.sqrt(sum((g - mean) ** 2 for g in gains) / (len(gains) - 1) / len(gains))
    assert result["difference"] == pytest.approx(mean)
    assert result["stderr"] == pytest.approx(stderr)
    holds = mean > max(result["margin"], 2 * stderr)
    fails = mean < -2 * stderr
    assert result["verdict"] == ("holds" if holds else "fails" if fails else "inconclusive")
    assert result["verdict"] == "holds" or result["note"], "a negative result is explained"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_result_is_of_the_recipe_as_it_is(path):
    result = json.loads(path.read_text())
    entry = catalogue()[result["method"]]
    ablation = entry.make("tiny").ablation
    assert result["pillar"] == entry.pillar
    assert result["metric"] == ablation.metric
    assert result["margin"] == ablation.margin
    assert result["switched_off"] == dict(ablation.without)
