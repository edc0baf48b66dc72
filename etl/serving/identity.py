"""Who asks, and what that one may do. Knows no request and no database."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["analyst", "operator", "admin"]

ROLES: tuple[Role, ...] = ("analyst", "operator", "admin")
"""Each role may do what the ones before it may."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The name of the one who asks (never a secret), the role of the service, and the role of the database, if any."""

    name: str
    role: Role
    database_role: str | None = None
    key: str | None = None
    """The name of the key, of one who has a key or a token for it."""

    @property
    def view(self) -> str:
        """Names what the identity sees: answers are kept for it."""
        return f"{self.role}.{self.database_role or ''}"

    def may(self, least: Role) -> bool:
        """Return whether the role is at least this one."""
        return ROLES.index(self.role) >= ROLES.index(least)


ANYONE = Identity(name="anyone", role="admin")
"""Who asks where nobody is asked for a key: only this machine can reach the service then."""
