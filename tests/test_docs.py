"""The README's and the guides' Python blocks run as they stand, each file's in one namespace and in order."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)[^)]*\)")


def blocks(page):
    """Each Python block with the number of the line that it starts on."""
    text = page.read_text()
    return [
        (text.count("\n", 0, found.start(2)) + 1, found[2])
        for found in FENCE.finditer(text)
        if found[1] == "python"
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_blocks_run_in_order(page):
    namespace = {"__name__": "__main__"}
    for line, code in blocks(page):
        # Moved down to where they stand, so that a traceback names the page's own line.
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)
    for thing in list(namespace.values()):
        if hasattr(thing, "fit") and hasattr(thing, "close"):
            thing.close()


def test_every_block_says_what_it_is():
    for page in PAGES:
        assert all(found[1] for found in FENCE.finditer(page.read_text())), (
            f"{page} has a block without a language"
        )


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name
)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
