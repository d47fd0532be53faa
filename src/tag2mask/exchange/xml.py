"""What XML cannot hold."""

from __future__ import annotations

from tag2mask.errors import InputError


def not_in_xml(name: str) -> str:
    """Why a name cannot be written in XML 1.0 (section 2.2), however it is escaped; empty: it can."""
    if all(c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" for c in name):
        return ""
    return "it holds a character that XML has not"


def check_photo(name: str, form: str) -> None:
    """Refuse the name of a photo's file that cannot be written in XML, or is no text at all.

    Raises:
        InputError: it cannot.
    """
    if reason := not_in_xml(name):
        raise InputError(
            f"the photo '{name}' cannot be written as {form}: {reason}; rename the file, or choose another format "
            "(coco holds any name)"
        )
