"""The gradient through time, watched while somebody else's training runs."""

from .alarms import Alarm
from .history import History, read
from .keep import Keeper
from .monitor import Monitor
from .record import Found, Record

__all__ = ["Alarm", "Found", "History", "Keeper", "Monitor", "Record", "read"]
