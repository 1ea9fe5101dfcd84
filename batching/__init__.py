"""When a batch closes, how large it is, who rides, and how inputs fold into it and outputs out of it.

Pure: no clock, no I/O, no asyncio, nothing else of ours. The caller passes `now` and asks.
"""
