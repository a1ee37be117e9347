"""What a report is made of: its data, its texts, curves of training and strips of frames."""
