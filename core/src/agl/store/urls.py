"""URLs of stores, shown without their passwords."""

from __future__ import annotations


class StoreURL(str):
    """A store's URL as it was given; its `repr`, as in that of a record which holds it, has no password."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(without_password(self))


def without_password(given: str) -> str:
    """A URL for messages and records; another text, such as a path, as it is.

    It hides rather too much than too little: what stands before an `@` may be a password with signs that should be escaped.
    """
    scheme, separator, rest = given.partition("://")
    if not separator:
        return str(given)
    place, _, query = rest.partition("?")
    if "@" in query and "@" not in place:
        place, query = rest, ""
    user, at, host = place.rpartition("@")
    kept = "&".join(option for option in query.split("&") if option and "pass" not in option.partition("=")[0].lower())
    return f"{scheme}://{user.partition(':')[0]}{at}{host}{'?' if kept else ''}{kept}"
