"""Two pictures of a run for the README, of the page as it is: the run view, and the tree of a question with a node's details.

    python benchmarks/inspector_screens.py runs/quickstart [--question ID] [--theme light]

The question is, unless named, the solved one whose chosen path has the most steps and which has most nodes. Needs a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
from pathlib import Path

from inspector_scale import CHROMIUM, FLAGS, inspected
from playwright.sync_api import sync_playwright

from orchestrator.folder import Folder

HERE = Path(__file__).parent
RUN, TREE = HERE / "inspector_run.png", HERE / "inspector_tree.png"
SIZE = {"width": 1280, "height": 800}
LONGEST = """
SELECT q.id FROM question q JOIN trajectory t ON t.question = q.id AND t.best
WHERE q.state = 'solved'
ORDER BY json_array_length(t.nodes) DESC, (SELECT count(*) FROM node n WHERE n.question = q.id) DESC LIMIT 1
"""
FIRST = "SELECT json_extract(nodes, '$[0]') FROM trajectory WHERE question = ? AND best"


def main() -> None:
    """Take both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--question")
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    options = parser.parse_args()
    folder = Folder(options.run_dir.absolute())
    with sqlite3.connect(folder.database) as database:
        question = options.question or database.execute(LONGEST).fetchone()[0]
        node = database.execute(FIRST, (question,)).fetchone()[0]
    database.close()
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    with inspected(folder) as (_, address), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_context(viewport=SIZE, color_scheme=options.theme).new_page()  # pyright: ignore[reportArgumentType]
        for place, waited, path in (
            ("run", '[data-test="curves"] canvas', RUN),
            (f"questions/{question}?node={node}", '[data-test="call"]', TREE),
        ):
            page.goto(f"{address}#/{place}")
            page.wait_for_selector(waited)
            page.wait_for_timeout(1000)
            page.screenshot(path=path)
            print(path)
        browser.close()


if __name__ == "__main__":
    main()
