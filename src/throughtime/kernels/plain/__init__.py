"""The engines that run in plain torch."""
