"""`jitney models optimize`: a faster version of a model, measured against the one it is made from before it appears.

Works on files alone. A version is written whole or not at all, and never one that answers otherwise than is allowed.
"""
