"""What XML cannot hold."""

from __future__ import annotations


def not_in_xml(name: str) -> str:
    """Why a name cannot be written in XML 1.0 (section 2.2), however it is escaped; empty: it can."""
    if all(c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" for c in name):
        return ""
    return "it holds a character that XML has not"
