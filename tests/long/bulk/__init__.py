"""Bulk runs and bulk jobs at full length."""
