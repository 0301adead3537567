"""The page as HTML: no script, no request, no font of its own; readable on a phone and on paper."""

from __future__ import annotations

from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup


def render(page: dict[str, Any]) -> str:
    """One self-contained HTML document.

    Args:
        page: from `edgec.export.page.describe.page`. Its texts may hold names from models and are
            escaped; its pictures are SVG documents of our own, whose texts are.
    """
    return _templates().get_template("page.html.j2").render(page=page)


@cache
def _templates() -> jinja2.Environment:
    """Kept, because it keeps the template compiled."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgec.export.page", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["svg"] = lambda text: Markup(text)  # noqa: S704
    return environment
