"""What can be seen of one answer: is each line of its text true, and do the waypoints do what it says?"""
