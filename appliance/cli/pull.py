"""`lmx models pull`"""


def pull() -> None:
    """stub"""
