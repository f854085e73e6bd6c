"""Average the weights of finished runs: ModelRatatouille's command, which a plug-in provides."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from domainbed.scripts import COMMANDS, one_line


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that is registered as "inference"."""
    return COMMANDS["inference"](argv)


if __name__ == "__main__":
    sys.exit(main())
