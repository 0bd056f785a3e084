"""What a drive says about itself: traces, the text they are written in and read from, and the motion that a text implies."""
