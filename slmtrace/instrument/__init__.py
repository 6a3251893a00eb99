"""What is loaded into the target: it times imports and calls, and writes them to a log. It must survive any failure.

Standard library only, Python 3.9 and newer, and next to nothing imported at interpreter start: every process of the
target pays for it. In the target it is `_slmtrace.instrument`: it neither needs nor shadows an installed slmtrace.
"""
