"""`throughtime watch`: placeholder."""


def watch() -> None:
    """Show."""
