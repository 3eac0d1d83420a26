"""Find moments in videos by text or by example: vector stores, the library on top of them, and its search."""
