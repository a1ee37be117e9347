"""The task answers: video question answering over a fixed vocabulary of answers."""
