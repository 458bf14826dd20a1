"""`csv_cell`: text that no spreadsheet takes for a formula."""

from __future__ import annotations


def csv_cell(text: str) -> str:
    """The text, after an apostrophe where a spreadsheet would compute it (CWE-1236, OWASP "CSV Injection").

    >>> csv_cell("wall.png"), csv_cell("=1+2"), csv_cell(" @x"), csv_cell("-2")
    ('wall.png', "'=1+2", "' @x", "'-2")
    """
    first = text.lstrip()[:1]
    return "'" + text if (first in ("=", "+", "-", "@", "|", "%") and first) or text[:1] in ("\t", "\r", "\n") else text
