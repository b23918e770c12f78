"""What castrayd says: one fact is one event in the stream and one line in the log."""
