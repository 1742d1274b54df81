"""``python -m fullyconv``."""

from fullyconv.cli import main

main()
