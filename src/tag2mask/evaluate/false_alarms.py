"""False alarms: classes shown on photos that show none. A number of their own, which no mean over classes tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tag2mask.errors import some
from tag2mask.evaluate.figures import percent, plain


@dataclass(frozen=True)
class FalseAlarms:
    """Counts over the photos whose truth is background alone; they add up. 255 counts on neither side."""

    photos: int = 0
    alarms: int = 0  # photos of these in whose mask any class is shown
    pixels: int = 0  # of these photos, where the truth is known
    alarm_pixels: int = 0  # where a class is shown

    @classmethod
    def of(cls, confusion: np.ndarray) -> FalseAlarms:
        """Of one photo's confusion matrix ``[n n+1]``."""
        pixels, shown = int(confusion.sum()), int(confusion[0, 1:-1].sum())
        if not pixels or confusion[1:].any():
            return cls()
        return cls(1, int(shown > 0), pixels, shown)

    def __add__(self, other: FalseAlarms) -> FalseAlarms:
        return FalseAlarms(
            self.photos + other.photos,
            self.alarms + other.alarms,
            self.pixels + other.pixels,
            self.alarm_pixels + other.alarm_pixels,
        )

    @property
    def share_of_photos(self) -> float:
        """Percent of these photos on which any class is shown."""
        return float(percent(self.alarms, self.photos))

    @property
    def share_of_pixels(self) -> float:
        """Percent of these photos' pixels on which a class is shown."""
        return float(percent(self.alarm_pixels, self.pixels))

    def __str__(self) -> str:
        return (
            f"{self.alarms} of {some(self.photos, 'photo')} with none of the classes got one in the mask, on "
            f"{self.share_of_pixels:.2f} % of their pixels"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "share_of_photos": plain(self.share_of_photos),
            "share_of_pixels": plain(self.share_of_pixels),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> FalseAlarms:
        """Back from :meth:`to_json`."""
        return cls(*(int(content[name]) for name in cls.__dataclass_fields__))
