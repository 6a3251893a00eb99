"""The eBPF collector: a process of its own, under an interpreter that has bcc. Standard library only, Python 3.9.

In: one JSON object as its argument, commands on stdin. Out: a raw log, and one JSON object a line on stdout.
"""
