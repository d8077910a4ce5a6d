"""The engine on a CPU: the compiled library, called through ctypes, which ends in this folder."""
