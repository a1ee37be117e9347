"""Shared code of the commands: flags, messages and progress."""
