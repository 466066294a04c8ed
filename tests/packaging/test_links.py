"""Every relative link of README, CHANGELOG and docs leads to a file that there is, and to a heading in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])


def prose(path: Path) -> str:
    """Without code, in which brackets are no links."""
    text = re.sub(
        r"^( *)(```|~~~).*?^\1\2", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    return re.sub(r"`[^`\n]*`", "`code`", text)


def anchors(path: Path) -> set[str]:
    """As GitHub makes them: lower case, no punctuation, hyphens for blanks; doubled ones numbered."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        name, number = slug, 0
        while name in found:
            number += 1
            name = f"{slug}-{number}"
        found.add(name)
    return found


def broken(page: Path) -> list[str]:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and (path.suffix != ".md" or anchor not in anchors(path)):
            wrong.append(f"{target}: no such heading")
        elif not path.is_relative_to(ROOT):
            wrong.append(f"{target}: outside the repository")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# Two `words`, here!\n## Again\n## Again\n")
    links = [
        "other.md",
        "other.md#two-words-here",
        "other.md#again-1",
        "none.md",
        "other.md#three",
        "#missing",
    ]
    page.write_text(
        "\n".join(f"[x]({link})" for link in links) + "\n`[x](code.md)`\n```\n[x](code.md)\n```\n"
    )
    found = [entry.partition(":")[0] for entry in broken(page)]
    assert found[-3:] == ["none.md", "other.md#three", "#missing"]
    assert "code.md" not in found


def test_the_index_leads_to_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in PAGES:
        inside = page.relative_to(ROOT)
        if inside.parts[0] == "docs" and inside.name != "README.md":
            assert f"({page.relative_to(ROOT / 'docs')})" in index, (
                f"docs/README.md does not lead to {inside}"
            )
