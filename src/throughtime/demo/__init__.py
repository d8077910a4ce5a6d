"""The study of two sentences: networks trained, measured and compared, and the page."""

from .experiment import Curriculum, Plan, Study, study
from .page import write_demo
from .recall import networks

__all__ = ["Curriculum", "Plan", "Study", "networks", "study", "write_demo"]
