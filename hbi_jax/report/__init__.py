"""The parts of a report: its data and text, training curves and strips of frames."""
