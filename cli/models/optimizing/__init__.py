"""`jitney models optimize`: adds a faster version of a model after comparing it with the original.

It works on files only. It writes a version atomically, and none whose outputs differ more than allowed.
"""
