"""What of others lies in the page: named with version and licence, unchanged; and nothing is fetched from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

STATIC = Path(__file__).parents[2] / "orchestrator" / "inspector" / "static"
VENDOR = STATIC / "vendor"
VENDORED = json.loads((VENDOR / "vendored.json").read_text(encoding="utf-8"))
OURS = sorted(path for path in STATIC.rglob("*") if path.is_file() and VENDOR not in path.parents)
NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1998/Math/MathML"}


def test_every_vendored_file_is_named_and_has_a_licence() -> None:
    found = {path.name for path in VENDOR.iterdir()} - {"vendored.json"}
    licences = {f"LICENSE-{row['package']}" for row in VENDORED}
    assert found == {row["file"] for row in VENDORED} | licences
    assert all(row["version"] and row["licence"] and row["from"] for row in VENDORED)


@pytest.mark.parametrize("row", VENDORED, ids=lambda row: row["file"])
def test_a_vendored_file_is_as_it_was_published(row: dict[str, str]) -> None:
    assert hashlib.sha256((VENDOR / row["file"]).read_bytes()).hexdigest() == row["sha256"]


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_part_of_the_page_asks_nobody_else_and_makes_no_markup_of_texts(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[\w.-]+[^\s'\"`)]*", text)) <= NAMESPACES
    forbidden = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "dangerouslySet", "eval(", "new Function")
    assert not [word for word in forbidden if word in text]


def test_what_the_page_imports_is_there() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="importmap">(.*?)</script>', page, re.DOTALL)
    assert found
    targets = json.loads(found[1])["imports"]
    assert all((STATIC / target.lstrip("/.")).is_file() for target in targets.values())
    for path in OURS:
        if path.suffix == ".js":
            text = path.read_text(encoding="utf-8")
            named = re.findall(r"^(?:import|export)\b[^;]*?from\s+'([^']+)'", text, re.MULTILINE) + re.findall(
                r"import\('([^']+)'\)", text
            )
            assert all((path.parent / name).is_file() if name.startswith(".") else name in targets for name in named), path.name
            assert named or "import" not in text, path.name
