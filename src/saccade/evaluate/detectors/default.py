"""The detectors that every report runs."""

from __future__ import annotations

from collections.abc import Sequence

from saccade.evaluate.detectors.diversity import DiversityCollapse, TextLoops
from saccade.evaluate.detectors.drift import EntropyCollapse, KLBlowUp, LengthDrift
from saccade.evaluate.detectors.finding import Detector, Finding
from saccade.evaluate.detectors.history import History
from saccade.evaluate.detectors.pictures import PictureArtefacts
from saccade.evaluate.detectors.rewards import FormatOnly, GoldFalls, TermDomination, UniformGroups

ALL: tuple[Detector, ...] = (
    GoldFalls(),
    FormatOnly(),
    TermDomination(),
    UniformGroups(),
    KLBlowUp(),
    EntropyCollapse(),
    LengthDrift(),
    DiversityCollapse(),
    TextLoops(),
    PictureArtefacts(),
)


def findings(history: History, detectors: Sequence[Detector] = ALL) -> list[Finding]:
    """What each detector says, in order."""
    return [detector(history) for detector in detectors]
