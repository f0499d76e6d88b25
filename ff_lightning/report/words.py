"""Numbers as people read them."""


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock(75), clock(7512.3)
    ('1:15', '2:05:12')
    """
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
