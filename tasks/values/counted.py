"""Write numbers of things in messages."""


def counted(number: int, one: str, several: str | None = None) -> str:
    """Put a number before a noun in its right form.

    >>> counted(1, "problem"), counted(2000, "problem"), counted(1, "image is", "images are")
    ('1 problem', '2,000 problems', '1 image is')
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"
