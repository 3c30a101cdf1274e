"""Our five import names are generic; other distributions own some of them too. This tells when one has taken ours.

Invariant: costs no import of what it looks at.
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

PACKAGES = ("agents", "configs", "orchestrator", "store", "trainers")
_HOME = Path(__file__).parent.parent
_MARK = "Part of Peripatos"


class NameTaken(Exception):
    """An import name of ours belongs to somebody else here; the message is one line."""


def check_names() -> None:
    """Raises `NameTaken` when `import NAME` would not give our package, or when another one has been installed over it."""
    for name in PACKAGES:
        found = _origin(name)
        if found is None or found.parent.parent != _HOME or _MARK not in found.read_text(encoding="utf-8", errors="replace"):
            raise NameTaken(
                f"the import name {name!r} belongs to {found or 'nobody'}{_owners(name)}, but peripatos needs it to be "
                f"{_HOME / name}: install peripatos in a virtual environment of its own, and run it from another folder"
            )


def _origin(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).absolute() if spec and spec.origin else None


def _owners(name: str) -> str:
    others = [owner for owner in metadata.packages_distributions().get(name, []) if owner != "peripatos"]
    return f" (installed by {', '.join(sorted(set(others)))})" if others else ""
