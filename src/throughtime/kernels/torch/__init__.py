"""torch's own fused recurrent modules, as an engine."""
