"""slmtrace: why is the first token slow on this node?"""

__version__ = "0.1.0"
