"""What only asking again can tell: is the text the cause of the motion, and the scene of both?"""
