"""What the commands share: flags, messages, progress."""
