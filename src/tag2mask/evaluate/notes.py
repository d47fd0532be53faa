"""What a reader of scores should know before the numbers, in plain sentences."""

from __future__ import annotations

from tag2mask.errors import listed, some
from tag2mask.evaluate.scores import Scores


def notes(scores: Scores) -> list[str]:
    """Of how many masks the scores are, classes that nothing is known of, false alarms, masks that say nothing."""
    lines = [f"{scores.photos} of {some(scores.photos + scores.left_out, 'mask')} compared"]
    missing = scores.missing_classes
    if missing:
        verb = "occurs" if len(missing) == 1 else "occur"
        lines.append(f"{listed(missing, 8)} never {verb} in the truth, so nothing says how well it is shown")
    if scores.false_alarms.photos:
        lines.append(f"false alarms: {scores.false_alarms}")
    if scores.pixels and not scores.predicted_pixels[1:].any():
        undecided = 100 - scores.coverage
        meaning = f", and {undecided:.1f} % of their pixels are undecided: if 255 marks the object, write 1"
        lines.append("no mask shows any class" + (meaning if undecided else ""))
    return lines
