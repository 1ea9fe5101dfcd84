"""Pydantic models of the bodies that the API takes and answers, by subject.

The document is made from them, and tests validate real answers with them. No request builds one.
"""
