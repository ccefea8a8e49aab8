"""What the generator is told beyond its configuration: where pages stand, and what links out of ``docs/`` become.

Pages are read on a code host too, where a link to a file of the repository works. The site has no such files: there the
words stay, and the file's name stands beside them.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any, Final

from pages.navigation import DOCS, navigation

_OUTWARD: Final = re.compile(r"\[(?P<words>[^\]]*)\]\((?P<path>\.\./[^)#\s]+)(?:#[^)]*)?\)")


def on_config(config: Any) -> Any:
    config.nav = navigation()
    return config


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    folder = posixpath.dirname(page.file.src_uri)

    def inward(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", folder, match["path"]))
        if path.startswith("docs/"):
            return match[0]
        if not (DOCS.parent / path).exists():
            raise FileNotFoundError(f"{page.file.src_uri}: {path} is not in the repository")
        words = match["words"].strip("`")
        return f"`{path}`" if words == path else f"{match['words']} (`{path}`)"

    return _OUTWARD.sub(inward, markdown)
